"""Trains everything that ships, one command after the other: from an ordinary wheel to a folder of weights.

    deid train all --minutes 600 --out weights

Synthetic people, estimator, close-ups, identity encoder, inpainter, few-step student, detail stage, pack, filter.
Each gets a share of the minutes. Interrupted, the same command goes on: what is done is not done again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from deid_diffusion.training.run import option, run_command, write_json

log = logging.getLogger(__name__)
# Of the minutes, for what is trained or made until its time is over. The rest takes what it takes: pack and filter.
SHARES = {
    "synthesize": 0.3, "estimator": 0.1, "apertures": 0.02, "id_encoder": 0.1, "inpaint": 0.24, "distill": 0.14,
    "detail": 0.1,
}  # fmt: skip
RECORD = "all.json"


@dataclass(frozen=True)
class Options:
    """What `deid train all` takes."""

    minutes: float = option(600.0, "for everything but packing, filtering and the pairs of the detail stage")
    data: str = option("data/synthetic", "folder of crops; people are synthesized into it where it holds none")
    count: int = option(30000, "most people that are synthesized")
    runs: str = option("runs", "folder for what each command writes")
    out: str = option("weights", "gets face256/ and face_estimator/")
    perceptual: str = option("", "TorchScript feature network; without one there is no student and no detail stage")
    labels: str = option("", "npz of `deid train label`; empty for the one that synthesize wrote, if there is one")
    mesh: str = option("", "see `deid train synthesize`")
    recogniser: str = option("", "see `deid train synthesize`; it judges identities in `distill`, too")
    age_net: str = option("", "see `deid train synthesize`")
    identities: int = option(8000, "identities in the bank, before it is filtered")
    pair_shards: int = option(40, "shards of synthetic people that the detail stage learns from")
    widths: str = option("32,64,128,256", "channels of estimator and identity encoder")
    channels: str = option("64,96,160,256", "unet width at 64, 32, 16 and 8 cells")
    filter: bool = option(True, "whether `filter_bank` is run")
    backend: str = option("auto", "what runs the base for the detail stage's pairs, see FaceAnonymizer")
    batch: int = option(0, "crops a step; 0 for each command's own number")
    steps: int = option(0, "most steps of each; 0 for no limit")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


def train(options: Options) -> dict[str, Any]:
    """Runs what is not done yet; returns which commands were run, in their order."""
    record = Path(options.runs) / RECORD
    done: list[str] = json.loads(record.read_text())["done"] if record.exists() else []
    ran: list[str] = []
    for name, words in plan(options):
        if name in done:
            log.info("%s was done before", name)
            continue
        log.info("%s", " ".join(["deid train", name.partition(" ")[0], *words]))
        import_module(f"deid_diffusion.training.{name.partition(' ')[0]}").main(words)
        done, ran = [*done, name], [*ran, name]
        write_json({"done": done}, record)
    return {"ran": ran, "weights": options.out}


def plan(options: Options) -> Iterator[tuple[str, list[str]]]:
    """Yields the name of each command, and its words; those that depend on earlier ones once these have run.

    Args:
        options: see there.
    """
    data, runs = Path(options.data), Path(options.runs)
    own = {name: str(runs / name) for name in SHARES}
    if (data / "synthesis.json").exists() or not any(data.glob("synthetic-*.tar")):
        named = {"--mesh": options.mesh, "--recogniser": options.recogniser, "--age-net": options.age_net}
        yield "synthesize", [
            "--out", options.data, "--count", str(options.count), "--threads", str(options.threads or 1),
            *_minutes(options, "synthesize"), *_given(named),
        ]  # fmt: skip
    written = data / "synthetic_labels.npz"
    labels = options.labels or (str(written) if written.exists() else "")
    known = ["--data", options.data, *_given({"--labels": labels})]

    def training(name: str, *words: str, batch: bool = True) -> tuple[str, list[str]]:
        how = ["--out", own[name], *_minutes(options, name), "--steps", str(options.steps), "--resume"]
        how += ["--threads", str(options.threads)]
        if options.batch and batch:
            how += ["--batch", str(options.batch)]
        return name, [*how, *words]

    seen = _given({"--perceptual": options.perceptual})
    yield training("estimator", *known, "--widths", options.widths)
    yield training("apertures", *known, batch=False)
    yield training("id_encoder", *known, "--widths", options.widths)
    yield training("inpaint", *known, *seen, "--channels", options.channels)
    generator = own["inpaint"]
    if options.perceptual:
        generator = own["distill"]
        teachers = {"--estimator": own["estimator"], "--id-encoder": own["id_encoder"]}
        teachers["--recogniser"] = options.recogniser
        start = ["--start", f"{own['inpaint']}/unet", "--teacher-steps", "0"]
        yield training("distill", *known, *seen, *start, *_given(teachers))
    else:
        log.warning("no --perceptual: no few-step student, no detail stage, and faces as if painted")
    parts = {
        "--inpaint": generator, "--id-encoder": own["id_encoder"], "--estimator": own["estimator"],
        "--apertures": own["apertures"], "--out": options.out, "--identities": str(options.identities),
    }  # fmt: skip
    yield "pack", [*known, *_given(parts)]
    if options.perceptual and any(data.glob("synthetic512-*.tar")):
        pairs = str(runs / "pairs")
        yield "detail_pairs", [
            "--data", options.data, "--out", pairs, "--base", f"{options.out}/face256",
            "--shards", str(options.pair_shards), "--threads", str(options.threads or 1), "--backend", options.backend,
        ]  # fmt: skip
        yield training("detail", "--data", pairs, *seen)
        yield "pack with detail", [*known, *_given(parts | {"--detail": f"{own['detail']}/detail"})]
    if options.filter:
        yield "filter_bank", ["--data", options.data, "--weights", options.out, "--threads", str(options.threads)]


def _minutes(options: Options, name: str) -> list[str]:
    return ["--minutes", f"{options.minutes * SHARES[name]:.4g}"]


def _given(words: dict[str, str]) -> list[str]:
    """Flags and their values, of those that have one."""
    return [word for pair in words.items() if pair[1] for word in pair]


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, train, argv, __doc__)


if __name__ == "__main__":
    main()
