"""Lets everybody of the identity bank be painted onto photos, and leaves out whose faces have scars that photos lack.

    deid train audition --data faces/ --weights weights

Some people are asked for further from the crowd than any photo showed the painter, and it fills what it does not know
with furrows. That depends on who is painted, far more than on the photo that they are painted on.
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
from deid_diffusion.attributes import as_unit
from deid_diffusion.fit import FURROW, furrows
from deid_diffusion.identities import IdentityBank, Target
from deid_diffusion.loading import IDENTITIES
from deid_diffusion.painting import paint
from deid_diffusion.paths import write_hashes
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.recognise import embed
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.preparing import ReadyFace, prepare
from deid_diffusion.settings import Settings
from deid_diffusion.training.data import FaceSet, load_faces
from deid_diffusion.training.run import option, parse_options, write_json

log = logging.getLogger(__name__)
AT_ONCE = 8
SUSPECT = 0.75  # of what is too much: who comes out so on one photo is painted onto others


@dataclass(frozen=True)
class Options:
    """What `deid train audition` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz: photos to be painted onto")
    weights: str = option("weights", "folder that `deid train pack` wrote; its bank is made smaller in place")
    photos: int = option(24, "how many photos there are to be painted onto")
    looks: int = option(3, "photos for each who comes out rough on the first")
    most: float = option(FURROW, "furrows that are too much, as `fit.furrows` counts them, on average over the looks")
    limit: int = option(0, "use only this many crops, 0 for all")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


def pick_photos(anonymize: FaceAnonymizer, faces: FaceSet, count: int) -> list[ReadyFace]:
    """Bare faces of the training split that look ahead, as many women as men, read as for painting.

    Raises:
        ValueError: there are not enough of them.
    """

    def guide(crops: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return embed(anonymize.pipeline.id_encoder, as_unit(crops)).numpy()

    column = ATTRIBUTE_NAMES.index
    ahead = faces.train & (faces.attributes[:, column("yaw_deg")].abs() < 12)
    picked: list[ReadyFace] = []
    for man in (False, True):
        numbers = torch.nonzero(ahead & ((faces.attributes[:, column("male")] > 0.5) == man))[:, 0]
        order = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))]
        wanted = (count + man) // 2
        for number in order.tolist() if wanted else ():
            image = faces.images[number].permute(1, 2, 0).numpy()
            found = anonymize.detect(image)[:1]
            ready, _ = prepare(image, found, Settings(), anonymize.reader, guide, anonymize.thresholds, anonymize.size)
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
    bank, reader, found = anonymize.bank, anonymize.reader, []
    settings = Settings(repulsion=Repulsion(scale=0))
    parts = [pairs[first : first + AT_ONCE] for first in range(0, len(pairs), AT_ONCE)]
    for part in tqdm(parts, unit="batch"):
        faces = [photos[photo] for _, photo in part]
        targets = [Target(bank.embedding[n], bank.person[n], n) for n, _ in part]
        meshes = [reader.guide_mesh(f.reading, f.wanted, t.person) for f, t in zip(faces, targets, strict=True)]
        painted = paint(anonymize.pipeline, faces, targets, meshes, [n for n, _ in part], settings)
        found += [furrows(image, mesh[:, :2]) for image, mesh in zip(painted, meshes, strict=True)]
    return np.array(found)


def audition(options: Options) -> None:
    """Rewrites the bank without those who came out rough, and says how many in `audition.json` beside it.

    Raises:
        ValueError: too few photos, or nobody would be left.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = Path(options.weights) / "face256"
    anonymize = FaceAnonymizer.from_pretrained(folder, reader=Path(options.weights) / "reader")
    faces = load_faces(Path(options.data), limit=options.limit or None)
    photos, bank = pick_photos(anonymize, faces, options.photos), anonymize.bank
    mismatch = np.stack([bank.mismatch(face.wanted) for face in photos], 1)
    best = np.argsort(mismatch, 1, kind="stable")[:, : max(options.looks, 1)]
    first = roughness(anonymize, photos, [(n, int(best[n, 0])) for n in range(len(best))])
    suspects = np.nonzero(first > SUSPECT * options.most)[0]
    again = [(int(n), int(photo)) for n in suspects for photo in best[n, 1:]]
    mean = first.copy()
    if again:
        others = roughness(anonymize, photos, again).reshape(len(suspects), -1)
        mean[suspects] = np.concatenate([first[suspects, None], others], 1).mean(1)
    stay = mean <= options.most
    if not stay.any():
        raise ValueError(f"nobody of {len(stay)} has furrows of at most {options.most}; raise --most")
    log.info("%d of %d stay; %d were painted onto more than one photo", stay.sum(), len(stay), len(suspects))
    IdentityBank(bank.embedding[stay], bank.person[stay], bank.attributes[stay]).save(folder / IDENTITIES)
    shares = {f"percentile_{q}": round(float(np.percentile(first, q)), 4) for q in (50, 75, 90, 95, 99)}
    write_json(
        {"heard": len(stay), "left_out": int((~stay).sum()), "most": options.most, "furrows": shares},
        folder / "audition.json",
    )
    write_hashes(folder)


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    audition(parse_options(Options, argv, __doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
