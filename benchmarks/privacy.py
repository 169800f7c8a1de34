"""Measures the privacy dial: every stop and seed, by plain, parrot and pooled attackers, over the surroundings' floor.

    python benchmarks/privacy.py probe/ gallery/ --judge recogniser.onnx --detector yunet:yunet.onnx --out out/privacy

Both folders hold photos of the same people under the same names, one person each. A photo is analyzed once, and every
stop and seed is generated from that. What is done is not done again: stop it, and go on by the same command, also with
other stops or more seeds. It writes `table.md`, `utility.md` and `privacy.svg` into --out, of all stops that were
judged so far, the whole evaluations below it, and in `outcomes.csv` what became of each face. --out also holds crops
and embeddings of the sources: delete it in the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from analyzed import AnalyzedPhotos
from PIL import Image

from deid_diffusion import FaceAnonymizer, Settings, cli
from deid_diffusion.evaluation.aggregate import LANDMARK_ERROR
from deid_diffusion.evaluation.attacks import ADAPTIVE, PARROT_1, POOLED, POOLED_PARROT, RANK_1, RANK_5
from deid_diffusion.evaluation.pairing import list_pictures
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.methods.k_same import Cohort, fit_cohort
from deid_diffusion.privacy import LEVELS
from deid_diffusion.seeds import derived_seed

COLUMNS = (RANK_1, RANK_5, PARROT_1, POOLED, POOLED_PARROT, ADAPTIVE)
AT_ONCE = 8  # photos a model call


class Dial:
    """Anonymizes the photos of two folders at the stops of the dial, into folders that wait for it to go on."""

    def __init__(
        self, load: Callable[[], FaceAnonymizer], sources: tuple[Path, Path], out: Path, candidates: int | None = None
    ):
        """Lists the photos.

        Args:
            load: gives the anonymizer, when something is to be generated.
            sources: folders of photos of the same people, by the same names.
            out: folder for all of it.
            candidates: a face; as the pipeline has it by default.
        """
        self.sources, self.out, self._load, self._candidates = sources, out, load, candidates
        self._files = dict(zip(("probe", "gallery"), map(list_pictures, sources), strict=True))
        self.keys = list(self._files["probe"])
        self._photos: AnalyzedPhotos | None = None
        self._cohort: Cohort | None = None

    @property
    def photos(self) -> AnalyzedPhotos:
        """The photos' analyses."""
        self._photos = self._photos or AnalyzedPhotos(self._load(), self.out / "analyses")
        return self._photos

    def run(self, stop: str, side: str, seed: int) -> Path:
        """Anonymizes one folder with one seed.

        Args:
            stop: of the dial.
            side: "probe" or "gallery".
            seed: every photo's own follows from it.

        Returns:
            the folder of outputs.
        """
        settings = Settings(privacy=stop, candidates=self._candidates)

        def targets(key: str) -> list[FaceTask]:
            own = derived_seed(seed, side, key)
            analysis = self.photos(self._files[side][key], settings.level.growth)
            return self.photos.anonymize.choose_targets(analysis, seed=own, settings=settings)

        return self._made(self.out / stop / f"{side}{seed}", side, targets, lambda: settings)

    def floor(self, stop: str) -> Path:
        """Gives everybody one and the same face, under the masks of a stop.

        Returns:
            the folder with `outputs` and `gallery`.
        """
        growth = LEVELS[stop].growth

        def pending(key: str) -> list[FaceTask]:
            return list(self.photos(self._files[side][key], growth).tasks)

        for side, name in (("probe", "outputs"), ("gallery", "gallery")):
            settings = lambda: Settings(privacy=stop, method="average", cohort=self.cohort())  # noqa: E731
            self._made(self.out / stop / "floor" / name, side, pending, settings)
        return self.out / stop / "floor"

    def cohort(self) -> Cohort:
        """The average of everybody in both folders."""
        if self._cohort is None:
            places = [files[key] for files in self._files.values() for key in self.keys]
            tasks = (task for path in places for task in self.photos(path, 0.1).tasks if task.pending)
            same = self.photos.anonymize.same_person(Settings())
            self._cohort = fit_cohort(((task.crop, task.embedding) for task in tasks), 5, same, whole=True)
        return self._cohort

    def _made(
        self, folder: Path, side: str, tasks_of: Callable[[str], list[FaceTask]], settings: Callable[[], Settings]
    ) -> Path:
        """Generates what a folder lacks."""
        waiting = [key for key in self.keys if not (folder / f"{key}.png").exists()]
        for keys in [waiting[first : first + AT_ONCE] for first in range(0, len(waiting), AT_ONCE)]:
            tasks = [[replace(task, picture=n) for task in tasks_of(key)] for n, key in enumerate(keys)]
            anonymize, given = self.photos.anonymize, settings()
            done = iter(anonymize.generate([task for own in tasks for task in own], given))
            for key, own in zip(keys, tasks, strict=True):
                analysis = self.photos(self._files[side][key], given.level.growth)
                result = anonymize.composite(analysis, [next(done) for _ in own], given)
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                result.save(folder / f"{key}.png")
                name = folder.relative_to(self.out)
                with (self.out / "outcomes.csv").open("a") as lines:
                    for face in result.faces:
                        lines.write(f"{name},{key},{face.outcome.value},{face.tries},{face.similarity}\n")
        return folder


def main(argv: list[str] | None = None) -> None:
    """Runs, judges and writes."""
    options = _parser().parse_args(argv)
    out: Path = options.out
    sources = chosen(options.probes, options.gallery, out / "sources", options.people, options.side)
    dial = Dial(FaceAnonymizer.from_pretrained, sources, out, options.candidates)
    for stop in options.stops:
        _stop(dial, stop, options)
    rows = {stop: json.loads(path.read_text()) for stop in LEVELS if (path := out / stop / "eval/eval.json").exists()}
    rows = {stop: report["methods"][-1] for stop, report in rows.items()}
    text = "\n".join(table(rows, number) for number in range(len(options.judge)))
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "utility.md").write_text(utility_table(rows), encoding="utf-8")
    draw(rows, out / "privacy.svg")
    print(text, utility_table(rows), sep="\n")


def chosen(probes: Path, gallery: Path, out: Path, people: int | None, side: int | None) -> tuple[Path, Path]:
    """Copies of the photos of those who are in both folders.

    Args:
        probes, gallery: folders of photos.
        out: folder for the copies.
        people: how many at most.
        side: larger photos are made smaller, until their longer side has so many pixels.

    Returns:
        the folders of the copies.
    """
    files = [list_pictures(folder) for folder in (probes, gallery)]
    for name, paths in zip(("probe", "gallery"), files, strict=True):
        for key in [key for key in files[0] if key in files[1]][:people]:
            copy = out / name / f"{key}{paths[key].suffix if side is None else '.png'}"
            if copy.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            if side is None:
                shutil.copy2(paths[key], copy)
            else:
                with Image.open(paths[key]) as photo:
                    small = photo.convert("RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
                small.save(copy)
    return out / "probe", out / "gallery"


def _stop(dial: Dial, stop: str, options: argparse.Namespace) -> None:
    """Generates and judges all seeds of one stop."""
    outputs, parrots, floor = [], [], dial.floor(stop)
    for seed in range(1, options.seeds + 1):
        outputs.append(dial.run(stop, "probe", seed))
        if seed <= (options.seeds if options.parrots is None else options.parrots):
            parrots.append(dial.run(stop, "gallery", seed))
    originals, gallery = dial.sources
    words: list[object] = ["eval", originals, *outputs, "--gallery", gallery, "-o", dial.out / stop / "eval", "--pool"]
    words += ["--floor", floor, "--detector", options.detector, "--cache", dial.out / "cache.db"]
    for name, values in (("--parrot", parrots), ("--judge", options.judge), ("--net", options.net)):
        words += [word for value in values for word in (name, value)]
    if code := cli.main([str(word) for word in words]):
        raise SystemExit(code)


def table(rows: dict[str, dict[str, Any]], judge: int = 0) -> str:
    """A row for each stop, one for its floor, and what is above it.

    Args:
        rows: the pooled report of each stop, as `eval.json` holds it.
        judge: which of its judges.
    """
    one = next(iter(rows.values()))
    found = {stop: _by_name(report["judges"][judge]["metrics"]) for stop, report in rows.items()}
    columns = [name for name in COLUMNS if any(name in metrics for metrics in found.values())]
    lines = [
        f"Judge: {one['judges'][judge]['judge']}; {one['people']} people; 95 % intervals by person.",
        "",
        "| stop | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for stop, report in rows.items():
        metrics = [found[stop].get(name) or {} for name in columns]
        lines.append(f"| {stop}, {report['faces']} faces | " + " | ".join(_cell(metric) for metric in metrics) + " |")
        floors = [_number(metric.get("floor")) for metric in metrics]
        lines.append(f"| {stop}: surroundings alone | " + " | ".join(floors) + " |")
        over = [_excess(metric.get("excess")) for metric in metrics]
        lines.append(f"| {stop}: over the surroundings | " + " | ".join(over) + " |")
    known = {name: metric for metrics in found.values() for name, metric in metrics.items()}
    for title, key in (("chance", "chance"), ("originals", "on_originals")):
        lines.append(f"| *{title}* | " + " | ".join(_number(known[name].get(key)) for name in columns) + " |")
    return "\n".join(lines) + "\n"


def utility_table(rows: dict[str, dict[str, Any]]) -> str:
    """A row for everything that is kept or lost, a column for each stop; in brackets originals and mirror images.

    Args:
        rows: as `table` takes them.
    """
    lines = ["| | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    reports = [_by_name([*report["utility"], *report["quality"]]) for report in rows.values()]
    for name in reports[0]:
        metrics = [report[name] for report in reports]
        if any(metric["value"] is not None for metric in metrics):
            usual = _number(metrics[0].get("on_originals"))
            cells = [_cell(metric) + (f" ({usual})" if usual else "") for metric in metrics]
            lines.append(f"| {name}, {metrics[0]['unit']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _by_name(metrics: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {metric["name"]: metric for metric in metrics}


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Privacy against utility: rank-1 of two attackers over the landmark error, a point a stop.

    Args:
        rows: as `table` takes them.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    found = [_by_name([*report["judges"][0]["metrics"], *report["utility"]]) for report in rows.values()]
    x = [metrics[LANDMARK_ERROR]["value"] for metrics in found]
    for name, colour in ((RANK_1, "C0"), (PARROT_1, "C3")):
        if not all(name in metrics for metrics in found):
            continue
        value, low, high, floor = (
            np.array([metrics[name][key] for metrics in found], float) for key in ("value", "low", "high", "floor")
        )
        axes.errorbar(x, value, [value - low, high - value], fmt="o-", color=colour, capsize=3, label=name)
        if np.isfinite(floor).all():
            axes.plot(x, floor, "x", color=colour, label=f"{name}: surroundings alone")
    for stop, at in zip(rows, x, strict=True):
        axes.annotate(stop, (at, 0), xytext=(0, -4), textcoords="offset points", ha="center", va="top", fontsize=8)
    axes.set(xlabel="landmark error, % of the eye distance", ylabel="rank-1", ylim=(-0.03, None))
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _cell(metric: dict[str, Any] | None) -> str:
    if metric is None or metric.get("value") is None:
        return ""
    span = "" if metric["low"] is None else f" [{_number(metric['low'])}, {_number(metric['high'])}]"
    return _number(metric["value"]) + span


def _excess(excess: list[float | None] | None) -> str:
    return "" if not excess or excess[1] is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*excess)


def _number(value: float | str | None) -> str:
    if isinstance(value, str):
        return value  # "inf"
    return "" if value is None else f"{value:.3f}" if value < 1.05 else f"{value:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("probes", type=Path, help="photos to anonymize")
    add("gallery", type=Path, help="other photos of the same people, same names")
    add("--judge", action="append", required=True, help="as deid eval takes it; repeatable, the first is drawn")
    add("--detector", default="dlib", help="likewise (dlib)")
    add("--net", action="append", default=[], help="likewise, repeatable: networks for what is kept")
    add("--out", type=Path, default=Path("out/privacy"), help="folder for all of it (out/privacy)")
    add("--stops", nargs="+", choices=tuple(LEVELS), default=list(LEVELS), help="of the dial (all)")
    add("--seeds", type=int, default=3, help="runs of each stop (3)")
    add("--parrots", type=int, choices=(0, 1), help="anonymize the gallery so often (once for each seed)")
    add("--side", type=int, help="make larger photos smaller, to so many pixels (as they are)")
    add("--candidates", type=int, help="a face (as deid run has it)")
    add("--people", type=int, help="the first so many only (all)")
    return parser


if __name__ == "__main__":
    main()
