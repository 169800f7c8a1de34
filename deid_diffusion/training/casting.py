"""Chooses who stays in the bank: of many people, those who come out unlike each other when they are painted.

However far apart embeddings are, a painter makes cousins of some: what tells them apart is what it paints badly. So
each of them sits for it a few times, in the surroundings of people of about their age, gender and skin tone; a
recogniser looks at what came out, and those stay whose painted faces are farthest from each other. Who is painted
badly goes first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.attributes import as_unit
from deid_diffusion.crops import blended
from deid_diffusion.fit import misfit
from deid_diffusion.geometry import FIVE
from deid_diffusion.identities import IdentityBank, Target
from deid_diffusion.painting import paint
from deid_diffusion.pipelines.recognise import embed
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.preparing import ReadyFace, prepare
from deid_diffusion.settings import Settings
from deid_diffusion.training.data import FaceSet
from deid_diffusion.training.people import spread
from deid_diffusion.training.wishes import teacher_view
from deid_diffusion.types import Face

log = logging.getLogger(__name__)
SETTINGS = Settings(steps=4, repulsion=Repulsion(scale=0.0))
NEAR = 8  # a sitting is in the surroundings of one of so many people who match best
SPOILT = 0.2  # of all people, those painted worst: they go whoever they look like
AT_ONCE = 8  # faces a call


def sitters(anonymize: FaceAnonymizer, faces: FaceSet, count: int, generator: torch.Generator) -> list[ReadyFace]:
    """Up to `count` crops of the training split, read as the faces of a picture are.

    Raises:
        ValueError: the reader can make nothing of any.
    """
    numbers = torch.nonzero(faces.train)[:, 0].cpu()
    numbers = numbers[torch.randperm(len(numbers), generator=generator)[:count]]

    def embedding(crops: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return embed(anonymize.pipeline.id_encoder, as_unit(crops)).numpy()

    ready: list[ReadyFace] = []
    for number in numbers.tolist():
        picture = faces.images[number].permute(1, 2, 0).cpu().numpy()
        points = faces.landmarks[number, :, :2].cpu().numpy()
        face = Face(np.concatenate([points.min(0), points.max(0)]), points[list(FIVE)])
        settings, thresholds = Settings(), anonymize.thresholds
        ready += prepare(picture, [face], settings, anonymize.reader, embedding, thresholds, anonymize.size)[0]
    if not ready:
        raise ValueError(f"wanted crops for people to sit in; the reader found no face in {len(numbers)} of them")
    return ready


@torch.no_grad()
def audition(
    anonymize: FaceAnonymizer,
    people: IdentityBank,
    places: Sequence[ReadyFace],
    teacher: Callable[[torch.Tensor], torch.Tensor],
    takes: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, np.ndarray]:
    """Paints everybody `takes` times.

    Args:
        anonymize: painter and reader.
        people: N of them.
        places: the surroundings they are painted in.
        teacher: (B, 3, 128, 128) BGR in 0..255 to (B, D), as `wishes.teacher_view` makes it.
        takes: sittings of each, in different surroundings where there are as many.
        generator: for surroundings and noise.

    Returns:
        (N, D) unit norm, what the teacher saw, a mean over the takes; (N,) what their worst take costs, see
        `fit.misfit`.
    """
    count = len(people.embedding)
    distance = np.stack([people.mismatch(place.wanted) for place in places], 1)
    near = np.argsort(distance, axis=1, kind="stable")[:, :NEAR]
    where = np.stack([row[torch.randperm(len(row), generator=generator).numpy()] for row in near])
    sittings = [
        (person, int(where[person, take % where.shape[1]])) for take in range(takes) for person in range(count)
    ]
    seen = torch.zeros(count, 0)
    cost = np.zeros(count)
    for start in range(0, len(sittings), AT_ONCE):
        part = sittings[start : start + AT_ONCE]
        ready = [places[place] for _, place in part]
        targets = [Target(people.embedding[n], people.person[n], n) for n, _ in part]
        meshes = [
            anonymize.reader.guide_mesh(face.reading, face.wanted, target.person)
            for face, target in zip(ready, targets, strict=True)
        ]
        seeds = torch.randint(2**31, (len(part),), generator=generator).tolist()
        images = paint(anonymize.pipeline, ready, targets, meshes, seeds, SETTINGS)
        crops = np.stack([blended(face.crop, image) for face, image in zip(ready, images, strict=True)])
        read = anonymize.reader.read(images)
        five = torch.from_numpy(np.stack([reading.landmarks[list(FIVE), :2] for reading in read])).float()
        looks = F.normalize(teacher(teacher_view(as_unit(crops), five, generator)).flatten(1).float(), dim=-1)
        seen = looks.new_zeros(count, looks.shape[1]) if seen.shape[1] == 0 else seen
        for (person, _), look, face, image, mesh, reading in zip(
            part, looks, ready, images, meshes, read, strict=True
        ):
            seen[person] += look
            own = misfit(image, face.crop.image, face.erased, mesh, face.wanted.to_dict(), reading)
            cost[person] = max(cost[person], own)
        if start // AT_ONCE % 50 == 0:
            log.info("%d of %d sittings", start + len(part), len(sittings))
    return F.normalize(seen, dim=-1), cost


def cast(seen: torch.Tensor, cost: np.ndarray, count: int) -> np.ndarray:
    """(N, D) unit norm what people look like painted, (N,) how badly -> (count,) numbers of those who stay, sorted."""
    kept = np.argsort(cost, kind="stable")[: max(count, round(len(cost) * (1 - SPOILT)))]
    return np.sort(kept[spread(seen[kept], count).cpu().numpy()])
