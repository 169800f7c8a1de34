"""Turns one attribute at a time and measures all of them: the disentanglement table of the model card.

    python benchmarks/knobs.py faces/ --net landmarks=lm68.pt --net age_gender=ag.pt --net expression=expr.pt \\
        --people 24 --out out/knobs

Row: the attribute that is set, from its low to its high value. Column: what changed, by networks that the pipeline
does not hold, in standard deviations of that measurement over the source crops. A good table is a diagonal. Same
noise, same target, no repulsion: nothing but the attribute differs.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from crops import Studio
from holdout import held_out
from PIL import Image

from deid_diffusion import FaceAnonymizer, Repulsion
from deid_diffusion.evaluation.nets import FaceNets, NetOptions, five_points
from deid_diffusion.evaluation.utility import cheeks, head_pose_deg
from deid_diffusion.faces.attribute_classifiers import REGIONS, AttributeClassifiers
from deid_diffusion.faces.estimator import as_unit
from deid_diffusion.settings import Settings
from deid_diffusion.training.data import load_faces
from deid_diffusion.training.label import (
    HAND,
    HAND_LABELLED,
    HandLabels,
    fit_calibrated,
    fit_on_raw_columns,
    plain_features,
)
from deid_diffusion.types import Face

# Low and high are well inside what the training crops show.
SETTINGS = {
    "yaw_deg": (-25, 25), "pitch_deg": (-12, 12), "mouth_open": (0.0, 0.6), "smile": (0.0, 1.0),
    "eyes_open": (0.2, 1.0), "age": (20, 65), "male": (0.0, 1.0), "skin_l": (40, 75), "light_x": (-0.4, 0.4),
    "glasses": (0.0, 1.0), "facial_hair": (0.0, 1.0),
}  # fmt: skip


class LooksJudge:
    """Glasses and facial hair, by classifiers fitted on the hold-out hand labels, which made no training label.

    It sees edges, texture and colour, and none of the face estimator's features.
    """

    def __init__(self, folder: Path):
        faces, hand = load_faces(folder), HandLabels.load(HAND)
        rows, classifiers = hand.rows_of(faces.keys), {}
        for name in HAND_LABELLED:
            region = REGIONS[name]
            kept = hand.holdout & (rows >= 0) & np.isfinite(hand.values[name])
            found = plain_features(faces, torch.from_numpy(rows[kept]), region)
            target = torch.from_numpy(hand.values[name][kept])
            classifiers[name] = fit_on_raw_columns(found, partial(fit_calibrated, target=target, decay=region.decay))
        self.classifiers = AttributeClassifiers(classifiers)

    def __call__(self, crops: np.ndarray, meshes: np.ndarray) -> dict[str, np.ndarray]:
        """(N, S, S, 3) uint8, (N, 478, 2) -> (N,) probabilities of each."""
        return {name: value.numpy() for name, value in self.classifiers(as_unit(crops), meshes).items()}


def measure(image: np.ndarray, face: Face, nets: FaceNets) -> dict[str, float]:
    """Everything but glasses and facial hair, of one (S, S, 3) uint8 crop."""
    points = nets.landmarks(image, face)
    five = five_points(points)
    eyes = float(np.linalg.norm(five[1] - five[0]))
    yaw, down, _ = head_pose_deg(five, image.shape[:2])
    lids = [np.linalg.norm(points[a] - points[b]) for a, b in ((37, 41), (38, 40), (43, 47), (44, 46))]
    age, male = nets.age_male(image, face)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0].astype(float)
    x, y = five.mean(0)
    radius = int(0.9 * eyes)
    rows = slice(max(int(y) - radius, 0), int(y) + radius)
    left, right = grey[rows, max(int(x) - radius, 0) : int(x)].mean(), grey[rows, int(x) : int(x) + radius].mean()
    return {
        "yaw_deg": float(yaw), "pitch_deg": -float(down),
        "mouth_open": float(np.linalg.norm(points[62] - points[66])) / eyes,
        "smile": float(nets.expression(image, face)[1]), "eyes_open": float(np.mean(lids)) / eyes,
        "age": float(age), "male": float(male), "skin_l": float(np.median(cheeks(image, five)[:, 0])),
        "light_x": (right - left) / (right + left),
    }  # fmt: skip


def table_of(crops: np.ndarray, studio: Studio, nets: FaceNets, judge: LooksJudge) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (N, A) measurements in the order of SETTINGS."""
    rows = [measure(image, studio.where(number), nets) for number, image in enumerate(crops)]
    meshes = np.stack([face.analysis.landmarks for face in studio.ready])
    for name, values in judge(crops, meshes).items():
        for row, value in zip(rows, values.tolist(), strict=True):
            row[name] = value
    return np.array([[row[name] for name in SETTINGS] for row in rows])


def markdown(response: np.ndarray) -> str:
    """(A, A) -> the table, its diagonal in bold."""
    names = list(SETTINGS)
    lines = ["| set | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for n, (name, row) in enumerate(zip(names, response, strict=True)):
        cells = [f"**{value:+.1f}**" if m == n else f"{value:+.1f}" for m, value in enumerate(row)]
        low, high = SETTINGS[name]
        lines.append(f"| {name} {low:g} to {high:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path, help="folder with NAME-00.tar ... and NAME.npz")
    parser.add_argument("--net", action="append", default=[], help="landmarks=, age_gender= and expression=FILE")
    parser.add_argument("--people", type=int, default=24, help="how many (24)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps (4)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/knobs"), help="folder for table, numbers and sample grid"
    )
    options = parser.parse_args()
    nets = FaceNets(NetOptions.from_specs(tuple(options.net)))
    if missing := {"landmarks", "age_gender", "expression"} - {kind for kind in nets.names}:
        raise SystemExit(f"wanted --net for {', '.join(sorted(missing))}; the table needs all three")
    judge = LooksJudge(options.faces)
    studio = Studio.of(
        FaceAnonymizer.from_pretrained(), held_out(options.faces, "synthetic", 3 * options.people), options.people
    )
    settings = Settings(steps=options.steps, repulsion=Repulsion(scale=0))
    originals = np.stack([face.crop.image for face in studio.ready])
    spread = table_of(originals, studio, nets, judge).std(0)
    response, strips = [], [originals[:8]]
    for name, values in SETTINGS.items():
        pair = [studio.generate(settings, {name: value}) for value in values]
        strips += [crops[:8] for crops in pair]
        low, high = (table_of(crops, studio, nets, judge) for crops in pair)
        response.append((high - low).mean(0) / spread)
    response = np.array(response)
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(response)
    (options.out / "response.md").write_text(text + "\n")
    numbers = {
        name: dict(zip(SETTINGS, row.round(3).tolist(), strict=True))
        for name, row in zip(SETTINGS, response, strict=True)
    }
    (options.out / "response.json").write_text(json.dumps({"people": options.people, "response": numbers}, indent=2))
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in strips])).resize(
        (1024, 128 * len(strips))
    ).save(options.out / "sample_grid.png")
    print(text)


if __name__ == "__main__":
    main()
