"""Who recognises people from what their new face is conditioned on: landmarks, attributes, texture; without a pixel.

    python benchmarks/conditioning_attack.py neutral/ --gallery smiling/ --yunet yunet.onnx

Both folders hold one photo a person under the same name. An attacker knows both photos of half of the people, learns
from them which directions distinguish people (linear discriminants on principal components, their number chosen within
that half), and names the other half: probes from the first folder among the faces of the second. Averaged over random
halves.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.detectors import YuNetDetector
from deid_diffusion.evaluation.metrics import bootstrap_mean
from deid_diffusion.evaluation.pairing import list_pictures, read_picture
from deid_diffusion.faces.align import crop_faces
from deid_diffusion.faces.estimator import FaceAnalysis, FaceEstimator
from deid_diffusion.faces.geometry import apply, invert
from deid_diffusion.faces.skin_texture import skin_texture
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, POINTS
from deid_diffusion.settings import DROPPABLE
from deid_diffusion.weight_files import weights_dir

DIMENSIONS = (2, 5, 10, 20, 40)
SHRINKAGE = (0.001, 0.01, 0.1, 0.5)
GROUPS = {
    "pose": ("yaw_deg", "pitch_deg", "roll_deg"),
    "expression": ("mouth_open", "smile", "eyes_open", "brow_raise", "gaze_x", "gaze_y"),
    "age": ("age",),
    "gender": ("male",),
    "skin": ("skin_l", "skin_a", "skin_b"),
    "light": ("light_x", "light_y"),
    "glasses, facial hair": ("glasses", "facial_hair"),
}


@dataclass(frozen=True, eq=False)
class Seen:
    """What is read from one photo.

    Attributes:
        analysis: what the estimator says.
        texture: (3,) how rough the skin is, as the new face gets it.
    """

    analysis: FaceAnalysis
    texture: np.ndarray


def readings(folder: Path, finder: YuNetDetector, estimator: FaceEstimator) -> dict[str, Seen]:
    """What is read from the largest face of each picture that has one, by name."""
    found = {}
    for key, path in list_pictures(folder).items():
        image = read_picture(path).pixels
        faces = sorted(finder(image), key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))[:1]
        for crop in crop_faces(image, faces, estimator):
            if crop is not None:
                rough = skin_texture(image, apply(invert(crop.crop_from_image), crop.landmarks.astype(float)))
                found[key] = Seen(estimator.analyze(crop.image[None])[0], rough)
    return found


def features(seen: Seen, estimator: FaceEstimator) -> dict[str, np.ndarray]:
    """(F,) numbers by what an attacker may see."""
    analysis = seen.analysis
    canonical = analysis.placement.unplace(analysis.landmarks)
    values = analysis.attributes.quantize().to_dict()
    given = {name: np.array([values[n] for n in names if n in values]) for name, names in GROUPS.items()}
    points = estimator.target_points(analysis, analysis.attributes.quantize()).ravel()
    exact = np.array([v for _, v in sorted(analysis.attributes.to_dict().items())])
    attributes = np.array([values[name] for name in ATTRIBUTE_NAMES if name in values])
    kept = np.array([values[name] for name in ATTRIBUTE_NAMES if name in values and name not in DROPPABLE])
    return {
        "raw: 478 landmarks, pose removed": canonical.ravel(),
        f"raw: the generator's {len(POINTS)} points, pose removed": canonical[list(POINTS)].ravel(),
        "estimated: attributes, unquantized": exact,
        f"given: {len(POINTS)} points, average person": points,
        "given: attributes": attributes,
        "given: points and attributes": np.concatenate([points, attributes]),
        "given, with every attribute dropped that can be": np.concatenate([points, kept]),
        **{f"attribute alone: {name}": row for name, row in given.items() if len(row)},
        "texture of the skin alone": seen.texture,
        "given: all of these": np.concatenate([points, attributes, seen.texture]),
    }


def fit(probes: np.ndarray, gallery: np.ndarray, choices: Sequence[tuple[int, float]]) -> list[np.ndarray]:
    """(n, F) twice, standardised, row by row the same people -> a map (F, m) for each (m, shrinkage), in which people
    differ most: principal components of both, then the whitening of what differs between photos of one person.
    """
    _, _, axes = np.linalg.svd(np.concatenate([probes, gallery]), full_matrices=False)
    maps = []
    for dimensions, shrinkage in choices:
        main = axes[:dimensions].T
        difference = (probes - gallery) @ main / np.sqrt(2)
        within = difference.T @ difference / len(difference)
        within += (shrinkage * np.trace(within) / len(within) + 1e-9) * np.eye(len(within))
        values, vectors = np.linalg.eigh(within)
        maps.append(main @ (vectors / np.sqrt(values)))
    return maps


def named(probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(n, m), (n, m) -> (n,) 1 where the nearest of the gallery is the person, shared among equals."""
    distance = ((probes[:, None] - gallery[None]) ** 2).sum(-1)
    nearest = distance <= distance.min(1, keepdims=True) + 1e-12
    return nearest.diagonal() / nearest.sum(1)


def attack(probes: np.ndarray, gallery: np.ndarray, known: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Hits of the people `unknown`, by who learned from both photos of the people `known`."""
    # Each folder around its own mean: everybody smiles in one of them, and that tells nobody apart.
    spread = np.maximum(np.concatenate([probes[known], gallery[known]]).std(0), 1e-9)
    a, b = ((rows - rows[known].mean(0)) / spread for rows in (probes, gallery))
    # No more components than numbers, or than half of the people can fix.
    most = max(min(a.shape[1], len(known) // 2), DIMENSIONS[0])
    choices = [(dimensions, shrinkage) for dimensions in DIMENSIONS if dimensions <= most for shrinkage in SHRINKAGE]
    rates = np.zeros(len(choices))
    for learn, test in ((known[::2], known[1::2]), (known[1::2], known[::2])):
        rates += [named(a[test] @ weight, b[test] @ weight).mean() for weight in fit(a[learn], b[learn], choices)]
    (weight,) = fit(a[known], b[known], [choices[int(rates.argmax())]])
    return named(a[unknown] @ weight, b[unknown] @ weight)


def halves(people: int, rounds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random halves, each of which learns once and is tried once."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        order = rng.permutation(people)
        yield order[: people // 2], order[people // 2 :]
        yield order[people // 2 :], order[: people // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probes", type=Path, help="folder with a photo of each person")
    parser.add_argument("--gallery", type=Path, required=True, help="folder with another photo of each, same names")
    parser.add_argument("--yunet", type=Path, required=True, help="YuNet's ONNX file")
    parser.add_argument("--estimator", type=Path, default=weights_dir("face_estimator"), help="folder of its weights")
    parser.add_argument("--rounds", type=int, default=20, help="random halves to average over (20)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    estimator, finder = FaceEstimator.from_pretrained(options.estimator), YuNetDetector(options.yunet)
    sides = [readings(folder, finder, estimator) for folder in (options.probes, options.gallery)]
    people = sorted(sides[0].keys() & sides[1].keys())
    seen = [[features(side[person], estimator) for person in people] for side in sides]
    chance = 2 / len(people)
    print(f"{len(people)} people, gallery of {len(people) // 2}, chance {chance:.3f}\n")
    print("| what the attacker has | numbers | rank-1 | x chance |\n|---|---|---|---|")
    for name in seen[0][0]:
        probes, gallery = (np.stack([row[name] for row in side]) for side in seen)
        hits = np.zeros(len(people))
        for known, unknown in halves(len(people), options.rounds, options.seed):
            hits[unknown] += attack(probes, gallery, known, unknown) / options.rounds
        low, high = bootstrap_mean(hits, np.array(people), options.seed)
        rate = hits.mean()
        print(f"| {name} | {probes.shape[1]} | {rate:.3f} [{low:.3f}, {high:.3f}] | {rate / chance:.1f} |", flush=True)


if __name__ == "__main__":
    main()
