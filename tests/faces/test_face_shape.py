import numpy as np
import pytest

from deid_diffusion.faces.face_shape import (
    EXPRESSION_NAMES,
    FaceShape,
    Placement,
    angles_from_rotation,
    fit_face_shape,
    mirror_numbers,
    read_expression,
    rotation_from_angles,
)
from tests.tiny import tiny_shape

POSES = [(0, 0, 0), (30, 10, 5), (-60, -20, 40), (15, 40, -170), (80, 0, 0)]


@pytest.mark.parametrize("angles", POSES)
def test_angles_survive_the_rotation(angles):
    assert angles_from_rotation(rotation_from_angles(*angles)) == pytest.approx(angles)


@pytest.mark.parametrize(("angles", "axis", "sign"), [((30, 0, 0), 0, 1), ((0, 30, 0), 1, -1)])
def test_yaw_looks_right_and_pitch_looks_up(angles, axis, sign):
    nose = rotation_from_angles(*angles) @ [0, 0, -1]  # towards the viewer; image y points down
    assert np.sign(nose[axis]) == sign


def test_roll_is_clockwise_in_the_image():
    assert (rotation_from_angles(0, 0, 30) @ [1, 0, 0])[1] > 0


@pytest.mark.parametrize("angles", POSES)
def test_locate_finds_pose_and_place(angles):
    shape = tiny_shape()
    placed = Placement(60.0, rotation_from_angles(*angles), np.array([120.0, 140, 0])).place(shape.mean)
    got = shape.locate(placed)
    assert got.scale == pytest.approx(60, rel=1e-4)
    assert angles_from_rotation(got.rotation) == pytest.approx(angles, abs=1e-2)
    assert np.allclose(got.unplace(placed), shape.mean, atol=1e-4)


def test_the_shape_is_recovered_and_leaves_when_it_is_not_given():
    shape = tiny_shape()
    expression, person = np.full(6, 0.5), np.array([1.0, -2, 0.5, 0])
    face = shape.expressed(expression, person)
    assert np.allclose(shape.shape_of(face, expression), person, atol=1e-4)
    assert np.allclose(shape.shape_of(shape.expressed(expression), expression), 0, atol=1e-4)


def test_saved_shapes_come_back(tmp_path):
    shape = tiny_shape()
    shape.save(tmp_path / "shape.safetensors")
    loaded = FaceShape.load(tmp_path / "shape.safetensors")
    assert all(np.allclose(getattr(loaded, k), v, atol=2e-3) for k, v in vars(shape).items())


@pytest.mark.parametrize(
    ("points", "name", "value"),
    [
        ({13: (0, 1.0, 0), 14: (0, 1.25, 0)}, "mouth_open", 0.5),
        ({13: (0, 1.0, 0), 14: (0, 1.0, 0)}, "mouth_open", 0.0),
        ({159: (-0.5, 0, 0), 145: (-0.5, 0, 0), 386: (0.5, 0, 0), 374: (0.5, 0, 0)}, "eyes_open", 0.0),
        ({468: (-0.35, 0, 0), 473: (0.65, 0, 0)}, "gaze_x", 0.6),
    ],
)
def test_expression_formulas(points, name, value):
    face = tiny_shape().mean.copy()
    for number, place in points.items():
        face[number] = place
    assert read_expression(face)[name] == pytest.approx(value, abs=0.02)


def test_fitting_separates_expression_from_person():
    rng = np.random.default_rng(0)
    truth = tiny_shape()
    symmetric = truth.mean.copy()
    half = np.arange(478)
    mirror = np.array([np.linalg.norm(symmetric * [-1, 1, 1] - symmetric[n], axis=1).argmin() for n in half])
    faces, smiles = [], []
    lift = np.zeros((478, 3))
    lift[[61, 291]] = [[-0.1, -0.2, 0], [0.1, -0.2, 0]]
    for _ in range(80):
        smile = rng.uniform()
        face = truth.mean + smile * lift + 0.02 * rng.normal(size=(478, 1)) * [1, 1, 1]
        place = Placement(60.0, rotation_from_angles(*rng.normal(0, 8, 3)), np.array([128.0, 128, 0]))
        faces.append(place.place(face))
        smiles.append(smile)
    shape = fit_face_shape(np.stack(faces), np.array(smiles), mirror, persons=4)
    got = shape.expression_basis[EXPRESSION_NAMES.index("smile")]
    assert got[61, 1] == pytest.approx(-0.2, abs=0.06)
    assert abs(got[100, 1]) < 0.05


def test_mirror_pairs_points():
    rng = np.random.default_rng(0)
    right = rng.normal(size=(239, 3)) + [3, 0, 0]
    face = np.concatenate([right, right * [-1, 1, 1]])
    face[[468, 473]] = [[-0.5, 0, 0], [0.5, 0, 0]]
    face[[468 - 239, 473 - 239]] = [[0.5, 0.0, 9], [-0.5, 0.0, 9]]
    mirror = mirror_numbers(face[None])
    assert (mirror[mirror] == np.arange(478)).all()
    assert mirror[5] == 5 + 239
