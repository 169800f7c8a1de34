"""An identity transferred to a crop brings its proportions, and leaves pose, expression and outline as they are."""

import numpy as np
import pytest
import torch

from deid_diffusion.faces.face_shape import rotation_from_angles
from deid_diffusion.faces.geometry import FIVE, crop_from_image
from deid_diffusion.pipelines.conditioning import FIELDS, POINTS
from deid_diffusion.training.data import Batch, FaceSet
from deid_diffusion.training.identity import decorrelate, identity_coefficients, transfer_geometry
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


def test_decorrelated_embeddings_lack_what_all_have_in_common():
    people = torch.nn.functional.normalize(torch.eye(4, 8) + 0.5, dim=-1)
    mean = people.mean(0)
    assert torch.allclose(decorrelate(people, mean, 0.0), people)
    results = [decorrelate(people, mean, share) for share in (0.0, 0.5, 1.0)]
    similarity = [float((people[0] * people[1]).sum()) for people in results]
    assert similarity[0] > similarity[1] > similarity[2]
    assert torch.allclose(results[2].norm(dim=-1), torch.ones(4))


def test_identity_coefficients_are_found_in_any_pose(faces):
    for row, person in enumerate(PERSONS):
        found = identity_coefficients(faces.shape, faces.landmarks[row].double().numpy(), faces.shape.expression_mean)
        assert found == pytest.approx(person, abs=0.25)  # the placement takes up a little of it


def test_a_crop_with_its_own_geometry_stays_as_it_is(faces, batch):
    same = transfer_geometry(batch, faces, torch.arange(3), torch.ones(3))
    assert (same - batch.landmarks).abs().max() < 0.01


def test_transferred_geometry_moves_the_generator_s_points_and_nothing_else(faces, batch):
    moved = transfer_geometry(batch, faces, torch.tensor([1, 2, 0]), torch.ones(3))
    others = [n for n in range(478) if n not in POINTS]
    assert torch.equal(moved[:, others], batch.landmarks[:, others])
    assert torch.equal(moved[..., 2], batch.landmarks[..., 2])
    for row, (person, yaw) in enumerate(zip((1, 2, 0), YAWS, strict=True)):
        wanted = crop_of(faces.shape, PERSONS[person], yaw)[list(POINTS), :2]
        before = faces.landmarks[row][list(POINTS), :2].numpy()
        gone, left = np.abs(before - wanted).mean(), np.abs(moved[row][list(POINTS), :2].numpy() - wanted).mean()
        assert left < 0.3 * gone, (row, left, gone)


def test_exaggerated_geometry_moves_further(faces, batch):
    plain, exaggerated = (
        transfer_geometry(batch, faces, torch.tensor([1, 2, 0]), gain * torch.ones(3)) for gain in (1.0, 1.5)
    )
    moved = [(points - batch.landmarks)[:, list(POINTS)].norm(dim=-1).mean(1) for points in (plain, exaggerated)]
    assert (moved[1] > moved[0]).all()
