"""How well does the identity encoder know reference people? Calibrates `--except` and `--only`, and tests them.

    python benchmarks/references.py congress/probe congress/gallery --calibrate 75 --test london/neutral london/smiling
    python benchmarks/references.py ... --write weights/face256     # puts the rates into its thresholds.json

Each pair of folders holds two photos of each person, under one name. The first people by name calibrate, the rest and
the people of `--test` are measured with what came out. Run it with `--write` after `deid train pack`, which trains on
nobody real and cannot know these rates. Writes out/references.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deid_diffusion import FaceAnonymizer
from deid_diffusion.faces.align import crop_faces
from deid_diffusion.faces.references import References, reference_face
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.training.run import write_json
from deid_diffusion.weight_files import write_hashes

TAIL, LOWEST = 0.01, 0.2  # shares of the pairs of strangers, and of photos of one person, that the tails are fitted to
DARK = 45.0  # skin L below which a face counts as dark


@dataclass(frozen=True, eq=False)
class Photos:
    """Two photos of each of P people.

    Attributes:
        embedding: (P, 2, D) unit norm.
        male: (P,) bool, as the face estimator takes them.
        dark: (P,) bool, skin L below DARK.
        skipped: how many people had no readable pair.
    """

    embedding: np.ndarray
    male: np.ndarray
    dark: np.ndarray
    skipped: int = 0

    def part(self, which: slice) -> Photos:
        return Photos(self.embedding[which], self.male[which], self.dark[which], self.skipped)


def read(anonymize: FaceAnonymizer, first: Path, second: Path) -> Photos:
    """Everybody who has a photo with one readable face in both folders."""
    rows, names = [], sorted(path.name for path in first.iterdir() if (second / path.name).is_file())
    for name in names:
        try:
            rows.append([_look(anonymize, folder / name) for folder in (first, second)])
        except ValueError as error:
            print(f"left out: {error}")
    embedding = np.array([[embedded for embedded, _, _ in pair] for pair in rows])
    male, light = (np.array([[look[n] for look in pair] for pair in rows]).mean(1) for n in (1, 2))
    return Photos(embedding, male > 0.5, light < DARK, len(names) - len(rows))


def _look(anonymize: FaceAnonymizer, path: Path) -> tuple[np.ndarray, float, float]:
    image = load_picture(path).image
    (crop,) = crop_faces(image, [reference_face(anonymize.detect(image), str(path))], anonymize.estimator)
    if crop is None:
        raise ValueError(f"{path}: no readable face")
    said = anonymize.estimator.analyze(crop.image[None])[0].attributes
    return anonymize._embed(crop.image[None])[0], said.male, said.skin_l


def similarities(photos: Photos, group: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of all pairs of photos of one person, and of different people (of a (P,) bool group)."""
    embedding = photos.embedding if group is None else photos.embedding[group]
    flat, person = embedding.reshape(-1, embedding.shape[-1]), np.repeat(np.arange(len(embedding)), 2)
    upper = np.triu_indices(len(flat), 1)
    cosine, same = (flat @ flat.T)[upper], (person[:, None] == person)[upper]
    return cosine[same], cosine[~same]


def calibrate(genuine: np.ndarray, impostor: np.ndarray) -> dict[str, float]:
    """Cosines of pairs -> what `References.rates` needs, and what it was made from."""
    start = np.quantile(impostor, 1 - TAIL)
    # Hill's estimator for a tail that ends at 1: the maximum likelihood of the power.
    power = 1 / np.mean(np.log((1 - start) / (1 - impostor[impostor > start])))
    # Below the lowest fifth an exponential: 1 % of so few pairs is less than one.
    low = np.quantile(genuine, LOWEST)
    missed = low - np.mean(low - genuine[genuine < low]) * np.log(LOWEST / 0.01)
    found = {"real_far_0.01": start, "real_far_power": power, "real_frr_0.01": missed}
    found = {name: round(float(value), 4) for name, value in found.items()}
    return found | {"real_pairs": len(impostor), "real_people": len(genuine)}


def strangers(photos: Photos, people: int, each: int, trials: int) -> np.ndarray:
    """(trials,) similarity of somebody who is none of the references to the most similar of all their photos.

    Args:
        people: how many people are references.
        each: photos of each, 1 or 2.
    """
    flat, rng = photos.embedding.reshape(-1, photos.embedding.shape[-1]), np.random.default_rng(0)
    cosine, best = flat @ flat.T, np.zeros(trials)
    for trial in range(trials):
        stranger, *known = 2 * rng.permutation(len(photos.embedding))[: people + 1] + rng.integers(2, size=people + 1)
        rows = np.array(known) if each == 1 else np.concatenate([known, np.array(known) ^ 1])
        best[trial] = cosine[stranger, rows].max()
    return best


def test(photos: Photos, rates: dict[str, float], trials: int) -> dict[str, Any]:
    """What `--except` and `--only` leave and hide of people whom nothing was calibrated on."""
    genuine, _ = similarities(photos)
    count = len(photos.embedding)
    found: dict[str, Any] = {"people": count, "skipped": photos.skipped, "trials": trials}
    for people, each in ((1, 1), (20, 1), (50, 1), (20, 2)):
        if people >= count:
            continue
        some = References(np.zeros((people * each, 1)), rates)
        limit, likely = some.sure, some.likely
        best = strangers(photos, people, each, trials)
        found[f"{people} references, {each} photos each"] = {
            "except, strangers kept": float((best >= limit).mean()),
            "except, other photos kept": float((genuine >= limit).mean()) if each == 1 else None,
            "except, other photos borderline": float(((genuine >= likely) & (genuine < limit)).mean()),
            "only, strangers hidden": float((best >= some.missed).mean()),
            "only, other photos left": float((genuine < some.missed).mean()),
        }
    one = References(np.zeros((1, 1)), rates)
    limits = {"1 % of all": rates["real_far_0.01"], "--except, 1 photo": one.sure}
    groups = {"women": ~photos.male, "men": photos.male, "dark skin": photos.dark, "light skin": ~photos.dark}
    for name, group in groups.items():
        same, others = similarities(photos, group)
        found[f"{group.sum()} {name}"] = {
            key: {"strangers reach it": float((others >= at).mean()), "other photos do": float((same >= at).mean())}
            for key, at in limits.items()
            if group.sum() > 1
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs=2, help="two folders of photos of the same people")
    parser.add_argument("--calibrate", type=int, default=75, help="people that are calibrated on, by name (75)")
    parser.add_argument("--test", type=Path, nargs=2, action="append", default=[], help="other people, likewise")
    parser.add_argument("--trials", type=int, default=20000, help="strangers drawn for each rate (20000)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="weights whose thresholds.json gets the rates")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    anonymize = FaceAnonymizer.from_pretrained(backend="torch", guide=options.write)
    photos = read(anonymize, *options.photos)
    rates = calibrate(*similarities(photos.part(slice(options.calibrate))))
    found = {"rates": rates}
    found[str(options.photos[0].parent.name)] = test(
        photos.part(slice(options.calibrate, None)), rates, options.trials
    )
    for first, second in options.test:
        found[first.parent.name] = test(read(anonymize, first, second), rates, options.trials)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(found, options.out / "references.json")
    print(json.dumps(found, indent=1))
    if options.write:
        path = options.write / "thresholds.json"
        write_json(json.loads(path.read_text()) | rates, path)
        write_hashes(options.write)


if __name__ == "__main__":
    main()
