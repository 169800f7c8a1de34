"""Lets everybody of the identity bank be painted onto photos, and leaves out whose faces have scars that photos lack.

    deid train filter_bank --data faces/ --weights weights

Some people are asked for further from the crowd than any photo showed the painter, and it fills what it does not know
with furrows. That depends on who is painted, far more than on the photo that they are painted on. Old people have
furrows by right, and rare people are not to become rarer: of no group does more than a set share leave.
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
from deid_diffusion.faces.analyze import ReadyFace
from deid_diffusion.methods.candidates import FURROW, furrows
from deid_diffusion.methods.generate import paint_people
from deid_diffusion.methods.identity_bank import IdentityBank
from deid_diffusion.models.loading import IDENTITIES
from deid_diffusion.models.weights import write_hashes
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.settings import Settings
from deid_diffusion.training.data import FaceSet, load_faces
from deid_diffusion.training.run import option, parse_options, write_json

log = logging.getLogger(__name__)
AT_ONCE = 8
SUSPECT = 0.75  # of what is too much: who comes out so on one photo is painted onto others


@dataclass(frozen=True)
class Options:
    """What `deid train filter_bank` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz: photos to be painted onto")
    weights: str = option("weights", "folder that `deid train pack` wrote; its bank is made smaller in place")
    photos: int = option(24, "how many photos there are to be painted onto")
    looks: int = option(1, "photos for each who comes out rough on the first")
    most: float = option(FURROW, "furrows that are too much, as `fit.furrows` counts them, on average over the looks")
    share: float = option(0.25, "the most that leaves of the people of an age, skin tone (thirds) and gender")
    limit: int = option(0, "use only this many crops, 0 for all")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


def pick_photos(anonymize: FaceAnonymizer, faces: FaceSet, count: int) -> list[ReadyFace]:
    """Bare faces of the training split that look ahead, as many women as men, read as for painting.

    Raises:
        ValueError: there are not enough of them.
    """
    column = ATTRIBUTE_NAMES.index
    ahead = faces.train & (faces.attributes[:, column("yaw_deg")].abs() < 12)
    picked: list[ReadyFace] = []
    for man in (False, True):
        numbers = torch.nonzero(ahead & ((faces.attributes[:, column("male")] > 0.5) == man))[:, 0]
        order = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))]
        wanted = (count + man) // 2
        for number in order.tolist() if wanted else ():
            image = faces.images[number].permute(1, 2, 0).numpy()
            ready = anonymize.read_faces(image, anonymize.detect(image)[:1], Settings(), {})
            # Bare, or beards would be taken for furrows, and rims for scars.
            ready = [f for f in ready if max(f.wanted.glasses or 0, f.wanted.facial_hair or 0) < 0.5]
            picked += ready
            wanted -= len(ready)
            if not wanted:
                break
        if wanted:
            raise ValueError(f"wanted {count} photos of bare faces that look ahead; {wanted} too few; give more data")
    return picked


def roughness(anonymize: FaceAnonymizer, photos: Sequence[ReadyFace], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(P,) furrows of everybody painted onto a photo, for pairs of a number in the bank and one among the photos."""
    found: list[float] = []
    settings = Settings(repulsion=Repulsion(scale=0))
    parts = [pairs[first : first + AT_ONCE] for first in range(0, len(pairs), AT_ONCE)]
    for part in tqdm(parts, unit="batch"):
        faces = [photos[photo] for _, photo in part]
        seeds = [number for number, _ in part]
        targets = [anonymize.bank.target(number) for number in seeds]
        painted, meshes = paint_people(anonymize.pipeline, anonymize.reader, faces, targets, seeds, settings)
        found += map(furrows, painted, meshes)
    return np.array(found)


def groups(attributes: np.ndarray) -> np.ndarray:
    """(N, 5) attributes as the bank has them -> (N,) number of the group that each belongs to, 0 to 17."""
    age, male, skin = attributes[:, 0], attributes[:, 1] > 0.5, attributes[:, 2]
    thirds = [np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values) for values in (age, skin)]
    return thirds[0] * 6 + thirds[1] * 2 + male


def roughest(rough: np.ndarray, group: np.ndarray, most: float, share: float) -> np.ndarray:
    """(N,) furrows, (N,) group -> (N,) bool: above `most`, and among the roughest `share` of their group."""
    out = np.zeros(len(rough), bool)
    for number in np.unique(group):
        members = np.nonzero(group == number)[0]
        worst = members[np.argsort(-rough[members], kind="stable")][: int(share * len(members))]
        out[worst] = rough[worst] > most
    return out


def audition(options: Options) -> None:
    """Rewrites the bank without those who came out rough, and says how many in `audition.json` beside it.

    Raises:
        ValueError: a share outside of [0, 1), or too few photos.
    """
    if not 0 <= options.share < 1:
        raise ValueError(f"--share must lie in [0, 1), or nobody would be left; got {options.share}")
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = Path(options.weights) / "face256"
    anonymize = FaceAnonymizer.from_pretrained(folder, reader=Path(options.weights) / "reader")
    faces = load_faces(Path(options.data), limit=options.limit or None)
    photos, bank = pick_photos(anonymize, faces, options.photos), anonymize.bank
    mismatch = np.stack([bank.mismatch(face.wanted) for face in photos], 1)
    best = np.argsort(mismatch, 1, kind="stable")[:, : max(options.looks, 1)]
    rough = roughness(anonymize, photos, [(n, int(best[n, 0])) for n in range(len(best))])
    suspects = np.nonzero(rough > SUSPECT * options.most)[0]
    again = [(int(n), int(photo)) for n in suspects for photo in best[n, 1:]]
    if again:
        others = roughness(anonymize, photos, again).reshape(len(suspects), -1)
        rough[suspects] = (rough[suspects] + others.sum(1)) / best.shape[1]
    stay = ~roughest(rough, groups(bank.attributes), options.most, options.share)
    log.info("%d of %d stay; %d times somebody was painted onto another photo", stay.sum(), len(stay), len(again))
    IdentityBank(bank.embedding[stay], bank.person[stay], bank.attributes[stay]).save(folder / IDENTITIES)
    shares = {f"percentile_{q}": round(float(np.percentile(rough, q)), 2) for q in (50, 75, 90, 95, 99)}
    told = {"most": options.most, "share": options.share, "looks": options.looks, "furrows": shares}
    write_json(told | {"heard": len(stay), "left_out": int((~stay).sum())}, folder / "audition.json")
    write_hashes(folder)


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    audition(parse_options(Options, argv, __doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
