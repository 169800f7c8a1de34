import cv2
import numpy as np
import pytest

from deid_diffusion.evaluation.utility import (
    _HEAD,
    cheeks,
    head_pose_deg,
    ita_deg,
    landmark_error,
    normalised,
    skin_class,
)

POINTS = np.array([(40.0, 40), (80, 40), (60, 60), (45, 80), (75, 80)])


def test_landmark_error_is_in_percent_of_the_eye_distance():
    assert landmark_error(POINTS, POINTS + np.array([3, 4]), scale=50) == pytest.approx(10)
    assert landmark_error(POINTS, POINTS, scale=50) == 0


@pytest.mark.parametrize(("axis", "angle"), [(0, 0), (1, 20), (1, -35), (0, 15), (0, -15), (2, 25), (2, -170)])
def test_a_head_turned_by_a_known_angle_is_read_back(axis, angle):
    # Turned about one axis: x nods, y turns, z tilts.
    turn = np.zeros(3)
    turn[axis] = np.radians(angle)
    camera = np.array([[1.2 * 600, 0, 300], [0, 1.2 * 600, 300], [0, 0, 1]])
    points, _ = cv2.projectPoints(_HEAD, turn, np.array([20.0, -10.0, 400.0]), camera, None)
    yaw, pitch, roll = head_pose_deg(points[:, 0], (600, 600))
    expected = {0: (0, angle, 0), 1: (-angle, 0, 0), 2: (0, 0, angle)}[axis]
    assert (abs(yaw), abs(pitch), roll) == pytest.approx((abs(expected[0]), abs(expected[1]), expected[2]), abs=1.0)
    assert np.sign(round(yaw)) == np.sign(expected[0]) or axis != 1


@pytest.mark.parametrize(
    ("lab", "angle", "name"),
    [
        ((70, 10, 15), 53.13, "light"),
        ((50, 0, 15), 0.0, "brown"),
        ((30, 0, 20), -45.0, "dark"),
        ((90, 0, 9), 77.3, "very light"),
    ],
)
def test_ita_of_colours_computed_by_hand(lab, angle, name):
    assert ita_deg(np.array([lab], dtype=float)) == pytest.approx(angle, abs=0.1)
    assert skin_class(angle) == name


def test_cheeks_are_patches_of_the_picture_and_empty_outside():
    picture = np.full((120, 120, 3), 200, np.uint8)
    lab = cheeks(picture, POINTS)
    assert len(lab) > 50
    assert lab[0] == pytest.approx((80.6, 0, 0), abs=0.5)
    assert cheeks(picture, POINTS + 1000).shape == (0, 3)


def test_place_size_and_roll_do_not_count_as_shape():
    turned = 2.5 * POINTS @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + (7, 100)
    assert normalised(turned, turned) == pytest.approx(normalised(POINTS, POINTS))
