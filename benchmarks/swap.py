"""Measures the method swap: how alike everybody becomes to recognisers that the guidance never saw, and what is kept.

    python benchmarks/swap.py photos/ --judge recogniser.onnx --detector yunet:yunet.onnx --net pose=FILE.xml

One photo of each person. The target is somebody of the bank, of whom there is no photo: that judges take the outputs
for one person is what they can say of it. What is done is not done again: stop it, and go on by the same command.
--out may be that of `privacy.py`, whose analyses it takes; it holds crops and embeddings of the sources: delete it in
the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from analyzed import AnalyzedPhotos

from deid_diffusion import FaceAnonymizer, Settings
from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.detectors import detector_from_spec
from deid_diffusion.evaluation.judges import judge_from_spec
from deid_diffusion.evaluation.measure import FaceMeasurement, FaceMeasurer
from deid_diffusion.evaluation.metrics import bootstrap_mean, unit_norm
from deid_diffusion.evaluation.nets import FaceNets, NetOptions
from deid_diffusion.evaluation.pairing import list_pictures, read_picture
from deid_diffusion.faces.estimator import as_unit
from deid_diffusion.faces.masks import GROWTH
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.seeds import derived_seed


def main(argv: list[str] | None = None) -> None:
    """Swaps, judges and prints."""
    options = _parser().parse_args(argv)
    paths = list(list_pictures(options.photos).items())[: options.people]
    photos = AnalyzedPhotos(FaceAnonymizer.from_pretrained(), options.out / "analyses")
    judges = tuple(judge_from_spec(spec) for spec in options.judge)
    print("| attraction | people | encoder: to the target | " + " | ".join(
        f"{judge.name}: {what}" for judge in judges for what in ("among themselves", "to the source", "named")
    ) + " | yaw, pitch, roll off, degrees | same expression |")  # fmt: skip
    print("|---" * (5 + 3 * len(judges)) + "|")
    with ArrayCache(options.out / "cache.db") as cache:
        nets = FaceNets(NetOptions.from_specs(tuple(options.net)))
        measurer = FaceMeasurer(detector_from_spec(options.detector), judges, nets, cache)
        before = [measured(measurer, path) for _, path in paths]
        print(row("sources", before, before, []), flush=True)
        for scale in options.attraction:
            settings = Settings(method="swap", target=options.target, attraction=scale)
            folder, to_target = options.out / f"swap-{options.target}" / f"{scale:g}", []
            for key, path in paths:
                to_target.append(swapped(photos, path, folder / f"{key}.png", settings))
            after = [measured(measurer, folder / f"{key}.png") for key, _ in paths]
            print(row(f"{scale:g}", before, after, to_target), flush=True)


def swapped(photos: AnalyzedPhotos, path: Path, output: Path, settings: Settings) -> float:
    """Swaps the face of a photo, where an earlier run did not.

    Args:
        photos: analyzes.
        path: of the photo.
        output: file for the picture; beside it goes what is returned.
        settings: of the method.

    Returns:
        cosine of the new face to the target by the identity encoder; NaN where it was hidden.
    """
    note, anonymize = output.with_suffix(".txt"), photos.anonymize
    if not note.exists():
        analysis = photos(path, GROWTH)
        tasks = anonymize.choose_targets(analysis, seed=derived_seed("swap", path.stem), settings=settings)
        tasks = anonymize.generate(tasks, settings)
        output.parent.mkdir(parents=True, exist_ok=True)
        anonymize.composite(analysis, tasks, settings).save(output)
        new = [task.generated for task in tasks if task.generated is not None]
        target, found = anonymize.bank.target(int(settings.target)).embedding, np.nan
        if new:
            with torch.no_grad():
                found = float(embed(anonymize.pipeline.id_encoder, as_unit(new[0][None]))[0].numpy() @ target)
        note.write_text(str(found))
    return float(note.read_text())


def measured(measurer: FaceMeasurer, path: Path) -> tuple[list[np.ndarray], FaceMeasurement]:
    """The judges' embeddings of the largest face of a picture, and what else is measured of it."""
    picture = read_picture(path)
    faces = measurer.faces(picture)
    if not faces:
        raise SystemExit(f"{path.name}: no face was detected; give other photos, or another --detector")
    return measurer.embeddings(picture, faces[0]), measurer.measure_face(picture, faces[0])


Measured = Sequence[tuple[list[np.ndarray], FaceMeasurement]]


def row(name: str, before: Measured, after: Measured, to_target: Sequence[float]) -> str:
    """A line of the table, with 95 % intervals by person.

    Args:
        name: of the line.
        before, after: of each person, source and output.
        to_target: cosines to the target, by the identity encoder.
    """
    cells = [str(len(after)), mean(np.array(to_target)) if len(to_target) else ""]
    for number in range(len(before[0][0])):
        source, new = (unit_norm(np.stack([one[0][number] for one in side])) for side in (before, after))
        alike = new @ source.T
        cells += [among(new), mean(np.diag(alike)), mean((alike.argmax(1) == np.arange(len(alike))).astype(float))]
    off = [np.abs(a[1].pose_deg - b[1].pose_deg) for a, b in zip(before, after, strict=True)]
    cells.append(", ".join(mean(column) for column in np.stack(off).T))
    same = [a[1].expression.argmax() == b[1].expression.argmax() for a, b in zip(before, after, strict=True)]
    return f"| {name} | " + " | ".join([*cells, mean(np.array(same, float))]) + " |"


def mean(values: np.ndarray) -> str:
    """A mean with its interval."""
    values = values[np.isfinite(values)]
    low, high = bootstrap_mean(values, np.arange(len(values)), proportion=set(values) <= {0.0, 1.0})
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def among(vectors: np.ndarray) -> str:
    """Mean cosine of different people, with the interval that drawing other people gives."""

    def value(rows: np.ndarray) -> float:
        other = rows[:, None] != rows[None]
        return float((vectors[rows] @ vectors[rows].T)[other].mean())

    draws = np.random.default_rng(0)
    drawn = [value(draws.integers(0, len(vectors), len(vectors))) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{value(np.arange(len(vectors))):.2f} [{low:.2f}, {high:.2f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("photos", type=Path)
    add("--judge", action="append", required=True, help="as deid eval takes it; repeatable")
    add("--detector", default="dlib", help="likewise (dlib)")
    add("--net", action="append", default=[], help="likewise, repeatable: pose, expression")
    add("--people", type=int, help="the first so many only (all)")
    add("--target", type=int, default=100, help="number of the bank (100)")
    add("--attraction", type=float, nargs="+", default=[30.0], help="as deid run takes it (30)")
    add("--out", type=Path, default=Path("out/privacy"), help="folder for what is kept (out/privacy)")
    return parser


if __name__ == "__main__":
    main()
