"""The averages of k people: who shares one, what it looks like, and that nobody else gets it."""

import tempfile

import numpy as np
import pytest

from deid_diffusion.jobs.journal import fingerprint
from deid_diffusion.methods.k_same import ANCHORS, TooFewPeopleError, fit_cohort, mean_face, nearest_groups, thin_plate
from deid_diffusion.settings import Settings
from deid_diffusion.types import FaceCrop

SIZE = 32


def people(count: int) -> np.ndarray:
    """(count, 2) unit vectors; neighbours in number are neighbours in likeness."""
    angle = np.linspace(0, 3, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def crop(shade: int) -> FaceCrop:
    points = np.random.default_rng(0).uniform(4, SIZE - 4, (478, 2)).astype(np.float32)
    image = np.full((SIZE, SIZE, 3), shade, np.uint8)
    return FaceCrop(image, np.ones((SIZE, SIZE), np.float32), points, np.eye(3)[:2])


@pytest.mark.parametrize(("count", "k", "sizes"), [(2, 2, [2]), (3, 2, [3]), (9, 4, [4, 5]), (12, 4, [4] * 3)])
def test_everybody_is_in_one_group_of_k_or_more(count, k, sizes):
    groups = nearest_groups(people(count), k)
    assert [len(group) for group in groups] == sizes
    assert sorted(np.concatenate(groups)) == list(range(count))


def test_a_group_holds_those_who_are_alike():
    rows = people(8)
    mixed = rows[[0, 4, 1, 5, 2, 6, 3, 7]]
    assert [sorted(group) for group in nearest_groups(mixed, 4)] == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_k_people_share_one_face_to_the_byte_and_it_is_their_mean():
    rows, shades = people(8), [10, 20, 30, 40, 110, 120, 130, 140]
    cohort = fit_cohort(((crop(shade), row) for shade, row in zip(shades, rows, strict=True)), 4, 0.9999)
    assert (cohort.people, cohort.faces) == (8, 8)
    faces = [cohort.face_for(row, SIZE) for row in rows]
    assert [people for _, people in faces] == [4] * 8
    assert len({image.tobytes() for image, _ in faces}) == 2
    assert {int(image.mean()) for image, _ in faces} == {25, 125}


def test_two_photos_of_one_person_count_once():
    rows = people(4)
    photos = [(crop(100), row) for row in (*rows, *rows)]
    assert fit_cohort(photos, 4, 0.9999).people == 4
    with pytest.raises(TooFewPeopleError, match="needs 5 people to average, got 4 told apart in 8 faces"):
        fit_cohort(photos, 5, 0.9999)


@pytest.mark.parametrize("faces", [[], [(crop(0), people(2)[0])]])
def test_too_few_people_is_an_error_that_says_what_to_do(faces):
    with pytest.raises(TooFewPeopleError, match="give more pictures at once, or a smaller k"):
        fit_cohort(faces, 2, 0.9)


def test_somebody_who_is_not_in_the_set_gets_no_face():
    rows = people(4)
    cohort = fit_cohort([(crop(0), row) for row in rows], 2, 0.9)
    assert cohort.face_for(np.array([0, -1], np.float32), SIZE) is None


def test_what_a_report_says_changes_with_the_set_and_shows_nobody():
    rows = people(6)
    three, four, again = (str(fit_cohort([(crop(0), r) for r in rows[:n]], 2, 0.9999)) for n in (4, 5, 4))
    assert three == again != four
    assert three.startswith("4 people in 2 groups, ")
    assert len(three) < 50


def test_the_same_set_goes_on_where_a_run_stopped_and_another_set_does_not():
    rows = people(6)
    three, four, again = (fit_cohort([(crop(0), r) for r in rows[:n]], 2, 0.9999) for n in (4, 5, 4))
    made_with = [fingerprint(Settings(method="k-same", k=2, cohort=cohort)) for cohort in (three, four, again)]
    assert made_with[0] == made_with[2] != made_with[1]


def test_the_sources_leave_the_disk_when_something_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def faces():
        yield crop(1), people(2)[0]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit_cohort(faces(), 2, 0.9)
    assert not list(tmp_path.iterdir())


def test_a_thin_plate_hits_its_points_and_keeps_straight_lines():
    rng = np.random.default_rng(0)
    centres = rng.integers(4, 28, (12, 2)) + 0.5
    target = centres + rng.normal(0, 1.5, centres.shape)
    field = thin_plate(centres, target, SIZE, stiffness=0)
    hit = field[(centres[:, 1]).astype(int), (centres[:, 0]).astype(int)]
    assert np.abs(hit - target).max() < 1e-6
    shifted = thin_plate(centres, centres * 0.9 + [2, 1], SIZE)
    assert np.allclose(shifted[5, 9], np.array([9.5, 5.5]) * 0.9 + [2, 1])


def test_features_meet_before_they_are_averaged():
    """Two faces whose one dark spot lies at different places have one dark spot between them, not two pale ones."""
    points = np.random.default_rng(1).uniform(2, SIZE - 2, (2, len(ANCHORS), 2)).astype(np.float32)
    points[1] = points[0]
    points[0, 0], points[1, 0] = [12.5, 16.5], [18.5, 16.5]
    crops = np.full((2, SIZE, SIZE, 3), 200, np.uint8)
    crops[0, 15:19, 11:15], crops[1, 15:19, 17:21] = 0, 0
    keep = np.linalg.norm(points[0] - [15.5, 16.5], axis=1) > 8
    keep[0] = True
    mean = mean_face(crops, points[:, keep])
    assert mean[16, 15].max() < 40
    assert mean[2, 2].min() > 190


def test_averaged_as_a_whole_everybody_has_the_same_face():
    rows, shades = people(8), [10, 20, 30, 40, 110, 120, 130, 140]
    faces = [(crop(shade), row) for shade, row in zip(shades, rows, strict=True)]
    cohort = fit_cohort(faces, 3, 0.9999, whole=True)
    assert {(int(image.mean()), count) for image, count in (cohort.face_for(row, SIZE) for row in rows)} == {(75, 8)}
    with pytest.raises(TooFewPeopleError, match="needs 9 people"):
        fit_cohort(faces, 9, 0.9999, whole=True)
