"""Faces are read in one go, and one that cannot be read does not take the others along."""

import numpy as np
import pytest

from deid_diffusion.faces import analyze
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.types import Face, Outcome
from tests.tiny import DIM, tiny_estimator

FIVE = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.4, 1.1], [0.4, 1.1]]) * 30
FACES = [Face(np.array([x - 33, 73, x + 33, 151]), FIVE + [x, 100]) for x in (90.0, 230.0, 370.0)]
IMAGE = np.random.default_rng(0).integers(0, 256, (240, 460, 3), np.uint8)
PEOPLE = np.full(DIM, DIM**-0.5, np.float32)


def embed(crops: np.ndarray) -> np.ndarray:
    return np.tile(PEOPLE, (len(crops), 1))


def analyzed(estimator):
    return analyze.analyze_faces(IMAGE, [FaceTask(f, n) for n, f in enumerate(FACES)], estimator, embed, 256)


def test_the_faces_of_a_picture_are_read_in_one_go_and_as_they_would_be_alone(monkeypatch):
    estimator, sizes = tiny_estimator(), []
    read = estimator.analyze
    monkeypatch.setattr(estimator, "analyze", lambda crops, **how: sizes.append(len(crops)) or read(crops, **how))
    together = analyzed(estimator)
    assert sizes == [3]
    assert all(task.pending for task in together)
    monkeypatch.setattr(analyze, "AT_ONCE", 1)
    alone = analyzed(estimator)
    assert sizes == [3, 1, 1, 1]
    for one, other in zip(together, alone, strict=True):
        assert np.allclose(one.analysis.landmarks, other.analysis.landmarks, atol=1e-3)
        for name, value in one.analysis.attributes.to_dict().items():
            assert value == pytest.approx(other.analysis.attributes.to_dict()[name], abs=1e-3)


@pytest.mark.parametrize("how", ["raises", "not finite"])
def test_one_face_that_cannot_be_read_fails_alone(monkeypatch, how):
    estimator = tiny_estimator()
    bad = analyzed(estimator)[1].crop.image
    read, run = estimator.analyze, estimator._run

    def raising(crops, **how):
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
        monkeypatch.setattr(estimator, "analyze", raising)
    else:
        # While reading only: the landmarks that crops are cut by come from the same network.
        monkeypatch.setattr(estimator, "analyze", lambda crops, **how: _with(estimator, poisoned, read, crops))
    tasks = analyzed(estimator)
    assert [task.outcome for task in tasks] == [None, Outcome.FAILED, None]
    assert "not finite" in tasks[1].reason


def _with(estimator, run, read, crops):
    plain, estimator._run = estimator._run, run
    try:
        return read(crops)
    finally:
        estimator._run = plain
