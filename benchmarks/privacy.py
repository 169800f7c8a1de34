"""Measures the privacy dial: every stop and seed, by plain, parrot and pooled attackers, over the surroundings' floor.

    python benchmarks/privacy.py probe/ gallery/ --judge recogniser.onnx --detector yunet:yunet.onnx --out out/privacy

Both folders hold photos of the same people under the same names. What is done is not done again: stop it, and go on by
the same command. It writes `table.md` and `privacy.svg` into --out, and the whole evaluations below it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from deid_diffusion import cli
from deid_diffusion.evaluation.aggregate import DETECTED, LANDMARK_ERROR
from deid_diffusion.evaluation.attacks import PARROT_1, POOLED, POOLED_PARROT, RANK_1, RANK_5
from deid_diffusion.evaluation.pairing import list_pictures
from deid_diffusion.privacy import LEVELS

COLUMNS = (RANK_1, RANK_5, PARROT_1, POOLED, POOLED_PARROT)


def main(argv: list[str] | None = None) -> None:
    """Runs, judges and writes."""
    options = _parser().parse_args(argv)
    out: Path = options.out
    folders = [
        _first(folder, out / name, options.people)
        for folder, name in ((options.probes, "originals"), (options.gallery, "gallery"))
    ]
    rows = {stop: _stop(stop, *folders, out / stop, options) for stop in options.stops}
    text = table(rows)
    (out / "table.md").write_text(text, encoding="utf-8")
    draw(rows, out / "privacy.svg")
    print(text)


def _stop(stop: str, originals: Path, gallery: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The pooled report of all seeds of one stop."""
    outputs = []
    for seed in range(1, options.seeds + 1):
        for source, name, own in ((originals, "run", seed), (gallery, "parrot", 1000 + seed)):
            target = out / f"{name}{seed}"
            _deid("run", source, "-o", target, "--privacy", stop, "--seed", own)
        outputs.append(out / f"run{seed}")
    for source, name in ((originals, "outputs"), (gallery, "gallery")):
        _deid("run", source, "-o", out / "floor" / name, "--privacy", stop, "--method", "average", "--seed", 1)
    words = ["eval", originals, *outputs, "--gallery", gallery, "-o", out / "eval", "--pool", "--floor", out / "floor"]
    words += ["--judge", options.judge, "--detector", options.detector, "--cache", options.out / "cache.db"]
    words += [word for seed in range(1, options.seeds + 1) for word in ("--parrot", out / f"parrot{seed}")]
    _deid(*words)
    methods = json.loads((out / "eval" / "eval.json").read_text(encoding="utf-8"))["methods"]
    return methods[-1]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A row for each stop, one for its floor, and what is above it.

    Args:
        rows: the pooled report of each stop, as `eval.json` holds it.
    """
    one = next(iter(rows.values()))
    judge, count = one["judges"][0]["judge"], f"{one['people']} people, {one['faces']} faces a stop"
    lines = [
        f"Judge: {judge}; {count}; 95 % intervals by person.",
        "",
        "| stop | " + " | ".join((*COLUMNS, "a face is found", "landmark error, %")) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for stop, report in rows.items():
        metrics = {metric["name"]: metric for metric in (*report["judges"][0]["metrics"], *report["utility"])}
        cells = [_cell(metrics.get(name)) for name in (*COLUMNS, DETECTED, LANDMARK_ERROR)]
        lines.append(f"| {stop} | " + " | ".join(cells) + " |")
        floors = [_number((metrics.get(name) or {}).get("floor")) for name in COLUMNS]
        lines.append(f"| {stop}: surroundings alone | " + " | ".join([*floors, "", ""]) + " |")
        over = [_excess((metrics.get(name) or {}).get("excess")) for name in COLUMNS]
        lines.append(f"| {stop}: over the surroundings | " + " | ".join([*over, "", ""]) + " |")
    chance = [_number((metrics.get(name) or {}).get("chance")) for name in COLUMNS]
    lines.append("| *chance* | " + " | ".join([*chance, "", ""]) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Privacy against utility: rank-1 of two attackers over the landmark error, a point a stop.

    Args:
        rows: as `table` takes them.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, colour in ((RANK_1, "C0"), (PARROT_1, "C3")):
        points = []
        for report in rows.values():
            found = {metric["name"]: metric for metric in (*report["judges"][0]["metrics"], *report["utility"])}
            points.append((found[LANDMARK_ERROR]["value"], *(found[name][key] for key in ("value", "low", "high")),
                           found[name]["floor"]))  # fmt: skip
        x, value, low, high, floor = zip(*points, strict=True)
        bars = [[v - a for v, a in zip(value, low, strict=True)], [b - v for v, b in zip(value, high, strict=True)]]
        axes.errorbar(x, value, bars, fmt="o-", color=colour, capsize=3, label=name)
        if None not in floor:
            axes.plot(x, floor, "x", color=colour, label=f"{name}: surroundings alone")
    for stop, at in zip(rows, x, strict=True):
        axes.annotate(stop, (at, 0), xytext=(0, -4), textcoords="offset points", ha="center", va="top", fontsize=8)
    axes.set(xlabel="landmark error, % of the eye distance", ylabel="rank-1", ylim=(-0.03, None))
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _first(folder: Path, copy: Path, people: int | None) -> Path:
    """The folder, or a copy of its first people."""
    if people is None:
        return folder
    copy.mkdir(parents=True, exist_ok=True)
    for path in list(list_pictures(folder).values())[:people]:
        if not (copy / path.name).exists():
            shutil.copy2(path, copy / path.name)
    return copy


def _deid(*words: object) -> None:
    if (code := cli.main([str(word) for word in words])) not in (0, 1):
        raise SystemExit(code)


def _cell(metric: dict[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return ""
    span = "" if metric["low"] is None else f" [{_number(metric['low'])}, {_number(metric['high'])}]"
    return _number(metric["value"]) + span


def _excess(excess: list[float | None] | None) -> str:
    return "" if not excess or excess[1] is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*excess)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1.5 else f"{value:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("probes", type=Path, help="photos to anonymize")
    add("gallery", type=Path, help="other photos of the same people, same names")
    add("--judge", required=True, help="as deid eval takes it")
    add("--detector", default="dlib", help="likewise (dlib)")
    add("--out", type=Path, default=Path("out/privacy"), help="folder for all of it (out/privacy)")
    add("--stops", nargs="+", choices=tuple(LEVELS), default=list(LEVELS), help="of the dial (all)")
    add("--seeds", type=int, default=3, help="runs of each stop (3)")
    add("--people", type=int, help="the first so many only, copied below --out (all)")
    return parser


if __name__ == "__main__":
    main()
