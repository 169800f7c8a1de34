"""Who stays in the bank: people whose painted faces are far from each other, and painted well."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.pipelines.conditioning import FIELDS
from deid_diffusion.training.casting import audition, cast, sitters
from deid_diffusion.training.data import FaceSet
from tests.tiny import tiny_bank, tiny_pipeline, tiny_reader, tiny_shape

CROPS, PEOPLE = 6, 5


@pytest.fixture(scope="module")
def anonymize() -> FaceAnonymizer:
    thresholds = {"far_0.001": 0.9, "far_0.01": 0.8, "far_0.05": 0.7}
    return FaceAnonymizer(tiny_pipeline(256), tiny_reader(), tiny_bank(PEOPLE), thresholds)


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    """Crops with the one face that the tiny reader always sees; the last is held out."""
    generator = torch.Generator().manual_seed(0)
    landmarks = torch.tensor(tiny_shape().mean).float() * 64 + torch.tensor([128.0, 112.64, 0.0])
    return FaceSet(
        images=torch.randint(0, 255, (CROPS, 3, 256, 256), generator=generator, dtype=torch.uint8),
        landmarks=landmarks.expand(CROPS, -1, -1), attributes=torch.zeros(CROPS, len(FIELDS)),
        embedding=torch.zeros(CROPS, 256), expression=torch.full((CROPS, 7), 1 / 7), weight=torch.ones(CROPS),
        train=torch.arange(CROPS) < CROPS - 1, mirror=torch.arange(478), shape=tiny_shape(),
        keys=[str(n) for n in range(CROPS)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def places(anonymize, faces):
    return sitters(anonymize, faces, 10, torch.Generator().manual_seed(0))


def teacher(view: torch.Tensor) -> torch.Tensor:
    """(B, 3, 128, 128) -> (B, 48): what colours are where."""
    return torch.nn.functional.avg_pool2d(view, 32).flatten(1) - 127.5


def test_sitters_are_crops_of_the_training_split_that_can_be_read(anonymize, faces, places):
    assert len(places) == CROPS - 1
    held_out = faces.images[-1].permute(1, 2, 0).numpy()
    assert not any(np.array_equal(place.crop.image, held_out) for place in places)
    with pytest.raises(ValueError, match="no face in 0"):
        sitters(anonymize, replace(faces, train=torch.zeros_like(faces.train)), 10, torch.Generator())


def test_everybody_is_painted_as_themselves(anonymize, places):
    def seen(bank):
        return audition(anonymize, bank, places, teacher, 2, torch.Generator().manual_seed(1))

    bank = anonymize.bank
    look, cost = seen(bank)
    assert look.shape == (PEOPLE, 48)
    assert look.norm(dim=1) == pytest.approx(np.ones(PEOPLE), abs=1e-5)
    assert cost.shape == (PEOPLE,)
    assert (cost > 0).all()
    other = bank.rows(np.arange(PEOPLE))
    other.embedding[2] *= -1
    changed = (seen(other)[0] - look).abs().amax(1)
    assert changed[2] > 1e-4
    assert changed[[0, 1, 3, 4]].max() == pytest.approx(0, abs=1e-5)


def test_cousins_and_the_badly_painted_go():
    """Three people on their own, one of them painted worst, and seven cousins, one of them painted best."""
    seen = torch.eye(11)[:10]
    seen[3:, 10] = 5
    cost = np.ones(10)
    cost[1], cost[5] = 9.0, 0.0
    assert cast(torch.nn.functional.normalize(seen, dim=1), cost, 3).tolist() == [0, 2, 5]
