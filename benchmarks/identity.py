"""Does a target decide who a face becomes, and does repulsion keep it from being the source?

    python benchmarks/identity.py photos/ --judge net.pt:112:rgb:arcface:name=net --judge dlib --out out/identity

`photos/` holds one portrait of each of many people. Writes identity.json, two markdown tables and a plot.

- Targets: similarity of two different sources given one target, of one source given two targets, and of two sources
  given two targets. The first must be the highest for the target to decide.
- People: of how many pairs of generated targets the judge says "different people", at its threshold at a false accept
  rate of 1 % between the originals; a mean over five draws of targets, and in brackets the worst and the best.
- Bank: the same of people drawn from the whole bank, each generated on the portrait that suits them, and no two on the
  same portrait compared.
- Repulsion: similarity to the source by the identity encoder and by judges it never saw, and seconds a face, at three
  strengths and in both gradient forms; once with the usual target, and once with the source itself as target.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from crops import Studio
from PIL import Image
from scipy.optimize import linear_sum_assignment

from deid_diffusion import FaceAnonymizer, Repulsion
from deid_diffusion.evaluation.judges import Judge, id_encoder_hashes, judge_from_spec
from deid_diffusion.evaluation.metrics import unit_norm
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.methods.identity_bank import Target
from deid_diffusion.settings import Settings
from deid_diffusion.weight_files import weights_dir

STRENGTHS = (0.0, 15.0, 30.0, 60.0)


def seen_by(judge: Judge, studio: Studio, crops: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) -> (N, D) unit norm."""
    return unit_norm(np.stack([judge.embed(image, studio.where(number)) for number, image in enumerate(crops)]))


def off_diagonal(similarity: np.ndarray) -> np.ndarray:
    """(N, N) -> (N (N - 1) / 2,)."""
    return similarity[np.triu_indices(len(similarity), 1)]


def far_threshold(seen: np.ndarray) -> float:
    """(N, D) unit norm, of N people -> the similarity that 1 % of their pairs exceed."""
    return float(np.quantile(off_diagonal(seen @ seen.T), 0.99))


def targets_table(studio: Studio, judges: list[Judge], settings: Settings) -> tuple[list[str], dict[str, Any]]:
    """Who decides: source or target."""
    count = len(studio.ready)
    own = [studio.target(face, 1000 + n) for n, face in enumerate(studio.ready)]
    shared = [own[n - n % 2] for n in range(count)]  # neighbours get one target
    once = studio.generate(settings, targets=shared)
    again = studio.generate(settings, targets=own[1:] + own[:1])
    draws = [[studio.target(face, 1000 * draw + n) for n, face in enumerate(studio.ready)] for draw in range(2, 6)]
    others = [studio.generate(settings, targets=targets, seed=draw) for draw, targets in enumerate(draws)]
    originals = np.stack([face.crop.image for face in studio.ready])
    lines = [
        "| judge | two sources, one target | one source, two targets | two of each | generated pairs distinguished |",
        "|---|---|---|---|---|",
    ]
    numbers: dict[str, Any] = {}
    for judge in judges:
        first, second, before = (seen_by(judge, studio, crops) for crops in (once, again, originals))
        even = np.arange(0, count - 1, 2)
        threshold = far_threshold(before)
        people = [second, *(seen_by(judge, studio, crops) for crops in others)]
        apart = [float((off_diagonal(seen @ seen.T) < threshold).mean()) for seen in people]
        row = {
            "one target": float((first[even] * first[even + 1]).sum(1).mean()),
            "two targets": float((first[even] * second[even]).sum(1).mean()),
            "two of each": float(off_diagonal(second @ second.T).mean()),
            "distinguished": float(np.mean(apart)),
            "distinguished, by draw": apart,
            "threshold": threshold,
        }
        numbers[judge.name] = row
        lines.append(
            f"| {judge.name} | {row['one target']:.2f} | {row['two targets']:.2f} | {row['two of each']:.2f} | "
            f"{100 * row['distinguished']:.1f} % ({100 * min(apart):.0f} to {100 * max(apart):.0f}) |"
        )
    return lines, numbers


def bank_table(
    studio: Studio, judges: list[Judge], settings: Settings, people: int
) -> tuple[list[str], dict[str, Any]]:
    """How many pairs of the bank's people are distinguished, at a false accept rate of 1 % between the originals."""
    bank, places = studio.anonymize.bank, studio.ready
    numbers = np.sort(np.random.default_rng(0).permutation(len(bank.embedding))[:people])
    # Every portrait is used equally often, so that no look of hair and light is common to many.
    rounds = -(-len(numbers) // len(places))
    cost = np.stack([bank.mismatch(face.wanted)[numbers] for face in places] * rounds)
    place, person = linear_sum_assignment(cost)
    where = place % len(places)
    generated = Studio(studio.anonymize, [places[n] for n in where])
    targets = [bank.target(int(n)) for n in numbers[person]]
    crops = generated.generate(settings, targets=targets)
    originals = np.stack([face.crop.image for face in places])
    elsewhere = off_diagonal(where[:, None] != where[None])
    lines = ["| judge | people of the bank | pairs | distinguished |", "|---|---|---|---|"]
    found: dict[str, Any] = {}
    for judge in judges:
        after = seen_by(judge, generated, crops)
        threshold = far_threshold(seen_by(judge, studio, originals))
        alike = off_diagonal(after @ after.T)[elsewhere]
        found[judge.name] = {"distinguished": float((alike < threshold).mean()), "threshold": threshold}
        lines.append(
            f"| {judge.name} | {len(crops):,} of {len(bank.embedding):,} | {len(alike):,} | "
            f"{100 * found[judge.name]['distinguished']:.1f} % |"
        )
    return lines, found


def repulsion_table(studio: Studio, judges: list[Judge], steps: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Similarity to the source and seconds, by strength and form."""
    originals = np.stack([face.crop.image for face in studio.ready])
    before = {judge.name: seen_by(judge, studio, originals) for judge in judges}
    source = studio.embed(originals)
    themselves = [Target(face.embedding, np.zeros_like(t.shape_params), t.number) for face, t in (
        (face, studio.target(face, n)) for n, face in enumerate(studio.ready))]  # fmt: skip
    rows = []
    for who, targets in (("a stranger", None), ("the source", themselves)):
        for strength in STRENGTHS:
            for through in (False, True) if strength else (False,):
                settings = Settings(steps=steps, repulsion=Repulsion(scale=strength, through_unet=through))
                start = time.perf_counter()
                crops = studio.generate(settings, targets=targets)
                row = {
                    "target": who, "strength": strength,
                    "gradient": "through the unet" if through else "detached" if strength else "none",
                    "seconds": (time.perf_counter() - start) / len(crops),
                    "identity encoder": float((studio.embed(crops) * source).sum(1).mean()),
                }  # fmt: skip
                for judge in judges:
                    row[judge.name] = float((seen_by(judge, studio, crops) * before[judge.name]).sum(1).mean())
                rows.append(row)
    names = ["identity encoder", *before]
    head = ["target", "strength", "gradient", *names, "s a face"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = " | ".join(f"{row[name]:.2f}" for name in names)
        lines.append(f"| {row['target']} | {row['strength']:g} | {row['gradient']} | {cells} | {row['seconds']:.2f} |")
    return lines, rows


def plot(rows: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Similarity by strength: one panel for each target, one line for each network and form."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10.5, 3.6), sharey=True, layout="constrained")
    for panel, who in zip(panels, ("a stranger", "the source"), strict=True):
        for colour, name in enumerate(names):
            for form, style in (("detached", "-"), ("through the unet", "--")):
                line = [r for r in rows if r["target"] == who and r["gradient"] in ("none", form)]
                label = f"{name}, {form}"
                x, y = [r["strength"] for r in line], [r[name] for r in line]
                panel.plot(x, y, style, marker="o", color=f"C{colour}", label=label)
        panel.set(title=f"target: {who}", xlabel="repulsion strength")
        panel.axhline(0, color="0.7", linewidth=0.8)
    panels[0].set_ylabel("cosine to the source")
    figure.legend(*panels[1].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with one portrait of each person")
    parser.add_argument("--judge", action="append", default=[], help="as `deid eval --judge` takes it; repeatable")
    parser.add_argument("--people", type=int, default=24, help="for the repulsion table (24)")
    parser.add_argument("--targets", type=int, default=0, help="people for the target table (twice --people)")
    parser.add_argument("--bank", type=int, default=0, help="people of the bank to tell apart (twice --targets)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps (4)")
    parser.add_argument("--out", type=Path, default=Path("out/identity"), help="folder for tables and plot")
    options = parser.parse_args()
    judges = [judge_from_spec(spec, id_encoder_hashes(weights_dir("face256"))) for spec in options.judge or ["dlib"]]
    paths = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in (".jpg", ".png"))
    anonymize = FaceAnonymizer.from_pretrained()
    count = options.targets or 2 * options.people
    studio = Studio.of(anonymize, {p.name: load_picture(p).image for p in paths[: 2 * count]}, count)
    options.out.mkdir(parents=True, exist_ok=True)
    who, who_numbers = targets_table(studio, judges, Settings(steps=options.steps))
    print("\n".join(who), flush=True)
    bank, bank_numbers = bank_table(studio, judges, Settings(steps=options.steps), options.bank or 2 * count)
    print("\n".join(bank), flush=True)
    fewer = Studio(anonymize, studio.ready[: options.people])
    guidance, guidance_numbers = repulsion_table(fewer, judges, options.steps)
    print("\n".join(guidance))
    (options.out / "targets.md").write_text("\n".join(who) + "\n")
    (options.out / "bank.md").write_text("\n".join(bank) + "\n")
    (options.out / "repulsion.md").write_text("\n".join(guidance) + "\n")
    plot(guidance_numbers, ["identity encoder", *(judge.name for judge in judges)], options.out / "repulsion.png")
    numbers = {"people": count, "targets": who_numbers, "bank": bank_numbers, "repulsion": guidance_numbers}
    (options.out / "identity.json").write_text(json.dumps(numbers, indent=2))
    once = np.concatenate([face.crop.image for face in studio.ready[:8]], 1)
    twice = np.concatenate(list(studio.generate(Settings(steps=options.steps))[:8]), 1)
    Image.fromarray(np.concatenate([once, twice])).save(options.out / "sample_grid.png")


if __name__ == "__main__":
    main()
