"""A person lent to a crop brings their proportions, and leaves it its pose, expression and outline."""

import numpy as np
import pytest
import torch

from deid_diffusion.faces.face_shape import rotation_from_angles
from deid_diffusion.faces.geometry import FIVE, crop_from_image
from deid_diffusion.pipelines.conditioning import FIELDS, POINTS
from deid_diffusion.training.data import Batch, FaceSet
from deid_diffusion.training.identity import apart, geometry_of, lend_geometry
from tests.tiny import tiny_shape

YAWS, PERSONS = (0.0, 25.0, -10.0), ((1.0, 0, 0, 0), (0, -1.5, 0, 0), (0, 0, 0.5, 1.0))


def crop_of(shape, person, yaw: float) -> np.ndarray:
    """(478, 3) landmarks of somebody of average expression, where a crop puts them."""
    turned = shape.expressed(shape.expression_mean, np.array(person)) @ rotation_from_angles(yaw, 0.0, 0.0).T
    to_crop = crop_from_image(turned[list(FIVE), :2] * 64, 256)
    scale = np.hypot(*to_crop[:, 0])
    flat = turned[:, :2] * 64 @ to_crop[:, :2].T + to_crop[:, 2]
    return np.column_stack([flat, turned[:, 2] * 64 * scale])


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    shape = tiny_shape()
    landmarks = [crop_of(shape, person, yaw) for person, yaw in zip(PERSONS, YAWS, strict=True)]
    attributes = torch.full((3, len(FIELDS)), float(shape.expression_mean[0]))
    return FaceSet(
        images=torch.zeros(3, 3, 256, 256, dtype=torch.uint8), landmarks=torch.tensor(np.stack(landmarks)).float(),
        attributes=attributes, embedding=torch.eye(3, 8), expression=torch.zeros(3, 7), weight=torch.ones(3),
        train=torch.ones(3, dtype=bool), mirror=torch.arange(478), shape=shape, keys=["a", "b", "c"],
    )  # fmt: skip


@pytest.fixture
def batch(faces) -> Batch:
    return Batch(torch.zeros(3, 3, 256, 256), faces.landmarks, faces.attributes, faces.embedding, faces.expression)


def test_apart_takes_away_what_all_have_in_common():
    people = torch.nn.functional.normalize(torch.eye(4, 8) + 0.5, dim=-1)
    crowd = people.mean(0)
    assert torch.allclose(apart(people, crowd, 0.0), people)
    strangers = [apart(people, crowd, share) for share in (0.0, 0.5, 1.0)]
    likeness = [float((people[0] * people[1]).sum()) for people in strangers]
    assert likeness[0] > likeness[1] > likeness[2]
    assert torch.allclose(strangers[2].norm(dim=-1), torch.ones(4))


def test_geometry_is_read_from_any_pose(faces):
    for row, person in enumerate(PERSONS):
        found = geometry_of(faces.shape, faces.landmarks[row].double().numpy(), faces.shape.expression_mean)
        assert found == pytest.approx(person, abs=0.25)  # the placement takes up a little of it


def test_a_crop_that_borrows_from_itself_stays_as_it_is(faces, batch):
    same = lend_geometry(batch, faces, torch.arange(3), torch.ones(3))
    assert (same - batch.landmarks).abs().max() < 0.01


def test_a_borrowed_person_moves_the_painted_points_and_nothing_else(faces, batch):
    lent = lend_geometry(batch, faces, torch.tensor([1, 2, 0]), torch.ones(3))
    others = [n for n in range(478) if n not in POINTS]
    assert torch.equal(lent[:, others], batch.landmarks[:, others])
    assert torch.equal(lent[..., 2], batch.landmarks[..., 2])
    for row, (person, yaw) in enumerate(zip((1, 2, 0), YAWS, strict=True)):
        wanted = crop_of(faces.shape, PERSONS[person], yaw)[list(POINTS), :2]
        before = faces.landmarks[row][list(POINTS), :2].numpy()
        gone, left = np.abs(before - wanted).mean(), np.abs(lent[row][list(POINTS), :2].numpy() - wanted).mean()
        assert left < 0.3 * gone, (row, left, gone)


def test_what_is_overdone_moves_further(faces, batch):
    plain, overdone = (
        lend_geometry(batch, faces, torch.tensor([1, 2, 0]), gain * torch.ones(3)) for gain in (1.0, 1.5)
    )
    moved = [(lent - batch.landmarks)[:, list(POINTS)].norm(dim=-1).mean(1) for lent in (plain, overdone)]
    assert (moved[1] > moved[0]).all()
