"""Reference people are told from strangers at the rates that were measured, and what cannot be told is hidden."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.faces.references import Decision, References, decide, reference_face
from deid_diffusion.types import Face

from ..fakes import FIVE, RATES

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import references as benchmark

KEEP, HIDE, BORDERLINE = Decision


@pytest.fixture(scope="module")
def shipped(weights) -> dict[str, float]:
    return json.loads((weights / "face256" / "thresholds.json").read_text())


@pytest.mark.parametrize("photos", [1, 20, 50])
def test_hardly_a_stranger_is_kept_however_many_references_there_are(shipped, photos):
    """Similarities of strangers to one photo each, drawn from the tail that was measured."""
    share = np.random.default_rng(0).uniform(size=(10000, photos))
    gap, power = 1 - shipped["real_far_0.01"], shipped["real_far_power"]
    strangers = 1 - np.minimum(gap * (share / 0.01) ** (1 / power), 1)
    # The similarity to the unit vector of axis n is coordinate n.
    people = References(np.eye(photos), shipped)
    kept = sum(decide(one, people, None)[0] is KEEP for one in strangers)
    assert kept / len(strangers) <= 0.001
    assert decide(np.eye(photos)[0], people, None)[0] is KEEP
    # What was the threshold: it holds for one comparison at best.
    assert photos == 1 or (strangers.max(1) >= shipped["far_0.001"]).mean() > 0.1


def test_real_strangers_are_hidden_among_twenty_references_and_the_person_is_kept(shared, weights):
    from deid_diffusion.anonymizer import FaceAnonymizer

    folder = shared / "eval" / "congress"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, photos of real people that are no part of the repository")
    anonymize = FaceAnonymizer.from_pretrained(
        weights / "face256", estimator=weights / "face_estimator", backend="torch"
    )
    # Nobody of the first 75 was left out of the calibration.
    known = anonymize.embed_references([folder / "gallery" / f"{number:03}.jpg" for number in range(76, 96)])
    strangers = anonymize.embed_references(
        [folder / "probe" / f"{number:03}.jpg" for number in range(100, 130)]
    ).embedding
    assert len(known.embedding) == 20
    assert sum(decide(one, known, None)[0] is KEEP for one in strangers) == 0
    assert all(decide(one, known, None)[0] is KEEP for one in known.embedding)
    others = anonymize.embed_references([folder / "probe" / f"{number:03}.jpg" for number in range(76, 96)]).embedding
    each = [References(row[None], known.rates) for row in known.embedding]
    assert [decide(other, None, one)[0] for other, one in zip(others, each, strict=True)].count(KEEP) == 0


@pytest.mark.parametrize(
    ("similarity", "keep", "only"),
    [
        (np.nan, HIDE, HIDE),
        (-1.0, HIDE, KEEP),
        (0.029, HIDE, KEEP),
        (0.031, HIDE, BORDERLINE),
        (0.6, HIDE, BORDERLINE),
        (0.7, BORDERLINE, HIDE),
        (0.96, BORDERLINE, HIDE),
        (0.97, KEEP, HIDE),
        (1.0, KEEP, HIDE),
    ],
)
def test_what_lies_between_is_borderline_and_what_is_not_a_number_is_hidden(similarity, keep, only):
    people, face = References(np.array([[1.0, 0.0]]), RATES), np.array([similarity, 0.0])
    assert decide(face, people, None)[0] is keep
    assert decide(face, None, people)[0] is only
    assert decide(face, None, None) == (HIDE, "")


def test_more_references_make_keeping_harder_and_the_best_photo_of_a_person_counts():
    limits = [References(np.eye(photos), RATES).sure for photos in (1, 20, 21, 500)]
    assert limits[0] == limits[1] < limits[2] < limits[3] < 1
    two = References(np.eye(2), RATES)
    assert decide(np.array([0.1, 0.99]), two, None)[0] is KEEP
    assert decide(np.array([-0.1, 0.5]), None, two)[0] is BORDERLINE
    assert two.missed == References(np.eye(20), RATES).missed


@pytest.mark.parametrize(
    "embedding", [np.zeros((0, 4)), np.zeros(4), np.full((1, 4), np.nan)], ids=["none", "one row", "not a number"]
)
def test_references_without_people_are_refused(embedding):
    with pytest.raises(ValueError, match="R >= 1"):
        References(embedding, RATES)


def face(side: float, score: float = 0.9) -> Face:
    return Face(np.array([0, 0, side, side]), FIVE, score)


@pytest.mark.parametrize(
    ("faces", "chosen"),
    [
        ([face(100)], 0),
        ([face(100), face(20)], 0),  # somebody far in the back
        ([face(120, 0.5), face(55)], 1),  # a false alarm that is larger than the face
        ([face(100, 0.4)], 0),  # the best there is
        ([face(100), face(30)], None),
        ([face(100, 0.4), face(90, 0.4)], None),
        ([], None),
    ],
)
def test_a_reference_shows_one_person(faces, chosen):
    if chosen is None:
        with pytest.raises(ValueError, match="me.jpg: wanted a reference photo of one person"):
            reference_face(faces, "me.jpg")
    else:
        assert reference_face(faces, "me.jpg") is faces[chosen]


def test_the_calibration_finds_a_planted_tail():
    rng = np.random.default_rng(0)
    impostor = 1 - rng.uniform(size=200000) ** (1 / 4.0)  # P(similarity >= s) = (1 - s)^4
    genuine = 1 - rng.exponential(0.1, size=2000)
    rates = benchmark.calibrate(genuine, impostor)
    assert rates["real_far_0.01"] == pytest.approx(1 - 0.01**0.25, abs=0.01)
    assert rates["real_far_power"] == pytest.approx(4, rel=0.05)
    assert rates["real_frr_0.01"] == pytest.approx(np.quantile(genuine, 0.01), abs=0.05)
    one = References(np.eye(1), rates)
    assert one.likely == pytest.approx(1 - 0.05**0.25, abs=0.02)
    assert one.sure == pytest.approx(1 - 0.00001**0.25, abs=0.01)
