"""Filters the identity bank: drops identities whose generated faces have furrows like scars.

    deid train filter_bank --data faces/ --weights weights

Each identity is generated on photos. Some lie further from the mean than any photo that the generator was trained on,
and it fills what it does not know with furrows. That depends on the identity far more than on the photo. Old people
have furrows by right, and rare people are not to become rarer: of no group is more than a set share dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.methods.candidates import FURROW, furrows
from deid_diffusion.methods.sampling import sample, target_meshes
from deid_diffusion.models.loading import IDENTITIES
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.settings import Settings
from deid_diffusion.training.data import FaceSet, load_faces
from deid_diffusion.training.run import option, run_command, write_json
from deid_diffusion.weight_files import write_hashes

log = logging.getLogger(__name__)
BATCH = 8
SUSPECT = 0.75  # of the threshold: whose face has as many furrows on one photo is generated on others, too
RECORD = "audition.json"  # the name under which folders of weights list it


@dataclass(frozen=True)
class Options:
    """What `deid train filter_bank` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz: photos to generate faces on")
    weights: str = option("weights", "folder that `deid train pack` wrote; its bank is filtered in place")
    photos: int = option(24, "how many photos there are to generate faces on")
    photos_each: int = option(1, "photos for each identity that is suspect on the first")
    max_furrows: float = option(FURROW, "furrows above this drop an identity; in levels, a mean over its photos")
    max_share: float = option(0.25, "the most that is dropped of the people of an age, skin tone (thirds) and gender")
    limit: int = option(0, "use only this many crops, 0 for all")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


def pick_photos(anonymize: FaceAnonymizer, faces: FaceSet, count: int) -> list[FaceTask]:
    """Bare faces of the training split that look ahead, as many women as men, analyzed as for a picture.

    Args:
        anonymize: analyzes them.
        faces: to pick from.
        count: how many in all.

    Raises:
        ValueError: there are not enough of them.
    """
    column = ATTRIBUTE_NAMES.index
    ahead = faces.train & (faces.attributes[:, column("yaw_deg")].abs() < 12)
    picked: list[FaceTask] = []
    for man in (False, True):
        numbers = torch.nonzero(ahead & ((faces.attributes[:, column("male")] > 0.5) == man))[:, 0]
        order = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))]
        wanted = (count + man) // 2
        for number in order.tolist() if wanted else ():
            image = faces.images[number].permute(1, 2, 0).numpy()
            tasks = anonymize.choose_targets(anonymize.analyze(image, anonymize.detect(image)[:1]), seed=0)
            # Bare, or beards would be taken for furrows, and rims for scars.
            bare = [t for t in tasks if t.pending and max(t.wanted.glasses or 0, t.wanted.facial_hair or 0) < 0.5]
            picked += bare
            wanted -= len(bare)
            if not wanted:
                break
        if wanted:
            raise ValueError(f"wanted {count} photos of bare faces that look ahead; {wanted} too few; give more data")
    return picked


def measure_furrows(
    anonymize: FaceAnonymizer, photos: Sequence[FaceTask], pairs: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Generates identities on photos.

    Args:
        anonymize: its pipeline and bank.
        photos: to generate faces on.
        pairs: P numbers of an identity in the bank and of a photo.

    Returns:
        (P,) furrows of each face, in levels of 255.
    """
    found: list[float] = []
    settings = Settings(repulsion=Repulsion(scale=0))
    parts = [pairs[first : first + BATCH] for first in range(0, len(pairs), BATCH)]
    for part in tqdm(parts, unit="batch"):
        faces = [photos[photo] for _, photo in part]
        seeds = [number for number, _ in part]
        targets = [anonymize.bank.target(number) for number in seeds]
        meshes = target_meshes(anonymize.estimator, faces, targets)
        generated = sample(anonymize.pipeline, faces, targets, meshes, seeds, settings)
        found += map(furrows, generated, meshes)
    return np.array(found)


def demographic_groups(attributes: np.ndarray) -> np.ndarray:
    """(N, 5) attributes as the bank has them -> (N,) number of the group that each belongs to, 0 to 17."""
    age, male, skin = attributes[:, 0], attributes[:, 1] > 0.5, attributes[:, 2]
    thirds = [np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values) for values in (age, skin)]
    return thirds[0] * 6 + thirds[1] * 2 + male


def select_dropped(found: np.ndarray, group: np.ndarray, max_furrows: float, max_share: float) -> np.ndarray:
    """(N,) furrows, (N,) group -> (N,) bool: above `max_furrows`, and among the worst `max_share` of their group."""
    dropped = np.zeros(len(found), bool)
    for number in np.unique(group):
        members = np.nonzero(group == number)[0]
        worst = members[np.argsort(-found[members], kind="stable")][: int(max_share * len(members))]
        dropped[worst] = found[worst] > max_furrows
    return dropped


def filter_bank(options: Options) -> None:
    """Rewrites the bank with the identities that are kept, and says how many in `audition.json` beside it.

    Raises:
        ValueError: a share outside of [0, 1), or too few photos.
    """
    if not 0 <= options.max_share < 1:
        raise ValueError(f"--max-share must lie in [0, 1), or nobody would be kept; got {options.max_share}")
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = Path(options.weights) / "face256"
    anonymize = FaceAnonymizer.from_pretrained(folder, estimator=Path(options.weights) / "face_estimator")
    faces = load_faces(options.data, limit=options.limit)
    photos, bank = pick_photos(anonymize, faces, options.photos), anonymize.bank
    mismatch = np.stack([bank.mismatch(face.wanted) for face in photos], 1)
    best = np.argsort(mismatch, 1, kind="stable")[:, : max(options.photos_each, 1)]
    found = measure_furrows(anonymize, photos, [(n, int(best[n, 0])) for n in range(len(best))])
    suspects = np.nonzero(found > SUSPECT * options.max_furrows)[0]
    again = [(int(n), int(photo)) for n in suspects for photo in best[n, 1:]]
    if again:
        others = measure_furrows(anonymize, photos, again).reshape(len(suspects), -1)
        found[suspects] = (found[suspects] + others.sum(1)) / best.shape[1]
    groups = demographic_groups(bank.attributes)
    kept = ~select_dropped(found, groups, options.max_furrows, options.max_share)
    log.info("%d of %d identities kept; %d were generated on another photo, too", kept.sum(), len(kept), len(again))
    bank.only(np.flatnonzero(kept)).save(folder / IDENTITIES)
    percentiles = {f"percentile_{q}": round(float(np.percentile(found, q)), 2) for q in (50, 75, 90, 95, 99)}
    names = ("max_furrows", "max_share", "photos_each")
    record = {name: getattr(options, name) for name in names} | {"furrows": percentiles}
    write_json(record | {"evaluated": len(kept), "kept": int(kept.sum())}, folder / RECORD)
    write_hashes(folder)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, filter_bank, argv, __doc__)


if __name__ == "__main__":
    main()
