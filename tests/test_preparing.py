"""Faces are read in one go, and one that cannot be read does not take the others along."""

import numpy as np
import pytest

from deid_diffusion import preparing
from deid_diffusion.settings import Settings
from deid_diffusion.types import Face, Outcome
from tests.tiny import DIM, tiny_reader

FIVE = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.4, 1.1], [0.4, 1.1]]) * 30
FACES = [Face(np.array([x - 33, 73, x + 33, 151]), FIVE + [x, 100]) for x in (90.0, 230.0, 370.0)]
IMAGE = np.random.default_rng(0).integers(0, 256, (240, 460, 3), np.uint8)
PEOPLE = np.full(DIM, DIM**-0.5, np.float32)


def embed(crops: np.ndarray) -> np.ndarray:
    return np.tile(PEOPLE, (len(crops), 1))


def prepare(reader):
    return preparing.prepare(IMAGE, FACES, Settings(), reader, embed, 256)


def test_the_faces_of_a_picture_are_read_in_one_go_and_as_they_would_be_alone(monkeypatch):
    reader, sizes = tiny_reader(), []
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda crops: sizes.append(len(crops)) or read(crops))
    together, reports = prepare(reader)
    assert sizes == [3]
    assert not reports
    monkeypatch.setattr(preparing, "AT_ONCE", 1)
    alone, _ = prepare(reader)
    assert sizes == [3, 1, 1, 1]
    for one, other in zip(together, alone, strict=True):
        assert np.allclose(one.reading.landmarks, other.reading.landmarks, atol=1e-3)
        for name, value in one.wanted.to_dict().items():
            assert value == pytest.approx(other.wanted.to_dict()[name], abs=1e-3)


@pytest.mark.parametrize("how", ["raises", "not finite"])
def test_one_face_that_cannot_be_read_is_redacted_alone(monkeypatch, how):
    reader = tiny_reader()
    clean, _ = prepare(reader)
    bad = clean[1].crop.image
    read, run = reader.read, reader._run

    def raising(crops):
        if any(np.array_equal(crop, bad) for crop in crops):
            raise RuntimeError("landmarks are not finite")
        return read(crops)

    def poisoned(images):
        landmarks, *rest = run(images)
        for number, image in enumerate(images):
            pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
            landmarks[number] = np.nan if np.array_equal(pixels, bad) else landmarks[number]
        return landmarks, *rest

    if how == "raises":
        monkeypatch.setattr(reader, "read", raising)
    else:
        # While reading only: the landmarks that crops are cut by come from the same network.
        monkeypatch.setattr(reader, "read", lambda crops: _with(reader, poisoned, read, crops))
    ready, reports = prepare(reader)
    assert [r.number for r in ready] == [0, 2]
    assert list(reports) == [1]
    assert reports[1].outcome is Outcome.REDACTED
    assert "not finite" in reports[1].reason


def _with(reader, run, read, crops):
    plain, reader._run = reader._run, run
    try:
        return read(crops)
    finally:
        reader._run = plain
