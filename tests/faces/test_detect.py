import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from skimage import data

from deid_diffusion.faces.centerface import CenterFace, Found
from deid_diffusion.faces.detect import CenterFaceDetector, faces_from_boxes, merge, roll_deg
from deid_diffusion.faces.fast_detect import DETECTORS, detector_of
from deid_diffusion.types import Face

# Of skimage's astronaut, in its own pixels: the box of the face and five points, by hand.
BOX = np.array([178.0, 62, 272, 180])
POINTS = np.array([[203.0, 102], [247, 104], [224, 126], [203, 143], [242, 144]])


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request):
    return detector_of(request.param)


def head(height: float, roll: float = 0.0, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The astronaut's head with its face `height` px high, turned clockwise, in a square; and its (5, 2) points."""
    astronaut, scale = data.astronaut()[:300, 75:375], height / (BOX[3] - BOX[1])
    small = cv2.resize(
        astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    exact = small.shape[0] / 300
    middle = ((BOX[:2] + BOX[2:]) / 2 - [75, 0]) * exact
    side = side or int(2.2 * height)
    turn = np.radians(roll)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = np.array([side / 2, side / 2]) - linear @ middle
    matrix = np.c_[linear, shift + linear @ [0.5, 0.5] - 0.5]
    turned = cv2.warpAffine(small, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return turned, ((POINTS - [75, 0]) * exact) @ linear.T + shift


def nearest(faces: list[Face], points: np.ndarray) -> Face:
    assert faces, "no face found"
    return min(faces, key=lambda face: np.hypot(*(face.landmarks.mean(0) - points.mean(0))))


def eye_distances_off(face: Face, points: np.ndarray) -> float:
    """Mean error of the five points, in eye distances."""
    return float(np.hypot(*(face.landmarks - points).T).mean() / np.hypot(*(points[1] - points[0])))


@pytest.mark.parametrize("roll", [0, 90, 180, 270])
@pytest.mark.parametrize("height", [16, 24, 40, 80, 160])
def test_faces_of_every_size_are_found_upright_and_on_their_side(detector, height, roll):
    picture = np.full((400, 500, 3), 90, np.uint8)
    face, points = head(height, roll)
    picture[20 : 20 + len(face), 60 : 60 + len(face)] = face
    points = points + [60, 20]
    found = nearest(detector(picture), points)
    # The order of the points is the face's own: with it comes the roll.
    assert eye_distances_off(found, points) < (0.25 if height >= 40 else 0.45)
    assert abs((roll_deg(found.landmarks) - roll + 180) % 360 - 180) < 20
    assert (found.box[:2] < points.min(0)).all()
    assert (found.box[2:] > points.max(0)).all()


@pytest.mark.parametrize("roll", [30, 45, -60, 135])
def test_faces_at_odd_angles_are_found_with_their_roll(detector, roll):
    picture, points = head(90, roll, side=300)
    found = nearest(detector(picture), points)
    assert eye_distances_off(found, points) < 0.25
    assert abs((roll_deg(found.landmarks) - roll + 180) % 360 - 180) < 15


def test_faces_of_18_to_900_pixels_in_24_megapixels_are_all_found(detector):
    least = 18 if type(detector) is CenterFaceDetector else 20  # what the fast one promises
    rng = np.random.default_rng(0)
    ground = cv2.resize(
        rng.integers(60, 180, (40, 60, 3)).astype(np.uint8), (6000, 4000), interpolation=cv2.INTER_CUBIC
    )
    # The places lie on and off the seams between tiles.
    places = [(least, 0, 100, 80), (24, 0, 2040, 930), (60, 0, 990, 1700), (120, 0, 3000, 2600), (300, 0, 4200, 300)]
    places += [(900, 0, 300, 1950), (80, 90, 5500, 3500), (100, 180, 3500, 1500), (70, 270, 2500, 200)]
    wanted = []
    for height, roll, x, y in places:
        face, points = head(height, roll)
        ground[y : y + len(face), x : x + len(face)] = face
        wanted.append(points + [x, y])
    faces = detector(ground)
    for (height, *_), points in zip(places, wanted, strict=True):
        assert eye_distances_off(nearest(faces, points), points) < 0.5, height
    assert len(faces) <= len(places) + 2


@pytest.mark.parametrize("shape", [(1, 1), (20, 3000), (3000, 20), (33, 65)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_no_face_no_faces(detector, shape, value):
    assert detector(np.full((*shape, 3), value, np.uint8)) == []


@pytest.mark.parametrize("name", ["brick", "grass", "gravel", "coffee", "rocket"])
def test_pictures_without_a_face_give_hardly_any(detector, name):
    image = getattr(data, name)()
    image = np.dstack([image] * 3) if image.ndim == 2 else image
    assert len(detector(np.ascontiguousarray(image))) <= 1


def test_a_face_in_a_very_oblong_picture_is_found(detector):
    picture = np.full((64, 12_000, 3), 90, np.uint8)
    face, points = head(28)
    picture[1 : 1 + len(face), 7000 : 7000 + len(face)] = face
    assert eye_distances_off(nearest(detector(picture), points + [7000, 1]), points + [7000, 1]) < 0.4


@pytest.mark.parametrize("cut", [0.3, 0.5])
def test_a_face_cut_by_the_border_is_found_inside_the_picture(detector, cut):
    picture = np.ascontiguousarray(data.astronaut()[:300, int(BOX[0] + cut * (BOX[2] - BOX[0])) :])
    faces = detector(picture)
    assert faces
    assert all((face.box >= 0).all() for face in faces)
    assert faces[0].box[0] < 5


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(detector, image):
    with pytest.raises(ValueError, match="load_picture"):
        detector(image)


def test_detection_is_silent_and_does_not_change_the_picture(detector, capfd):
    picture, _ = head(60)
    before = picture.copy()
    one, two = type(detector)()(picture), detector(picture)
    assert [face.box.tolist() for face in one] == [face.box.tolist() for face in two]
    assert np.array_equal(picture, before)
    assert capfd.readouterr() == ("", "")


def test_opencv_finds_what_onnx_runtime_finds(monkeypatch):
    picture, _ = head(60, 30)
    views = np.stack([picture, picture[::-1]])
    by_runtime = CenterFace()(views, 0.02)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it was not installed
    by_opencv = CenterFace()(views, 0.02)
    assert sum(len(found.scores) for found in by_opencv) > 2
    for one, other in zip(by_runtime, by_opencv, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
        np.testing.assert_allclose(one.points, other.points, atol=1e-2)


def test_the_network_takes_as_many_threads_as_opencv_has(monkeypatch):
    made = []
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda path, options, **_: made.append(options))
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        with pytest.raises(AttributeError):  # of the session that was not made
            CenterFace()(np.zeros((1, 32, 32, 3), np.uint8), 0.5)
    finally:
        cv2.setNumThreads(before)
    assert made[0].intra_op_num_threads == 1
    assert made[0].get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("roll", [45, 60, 90, 135])
def test_the_fast_detector_finds_small_lying_faces_in_large_pictures(roll):
    picture = np.full((3000, 4000, 3), 90, np.uint8)
    face, points = head(32, roll)
    picture[1700 : 1700 + len(face), 2300 : 2300 + len(face)] = face
    found = nearest(detector_of("fast")(picture), points + [2300, 1700])
    assert eye_distances_off(found, points + [2300, 1700]) < 0.4
    assert abs((roll_deg(found.landmarks) - roll + 180) % 360 - 180) < 20


@pytest.mark.parametrize("roll", [0, 40])
def test_a_known_face_is_followed_and_one_that_left_the_picture_is_not(roll):
    detector = detector_of("fast")
    image, points = head(60, roll, side=300)
    face = nearest(detector(image), points)
    before = replace(face, box=face.box + 9, landmarks=face.landmarks + 9)
    elsewhere = [replace(face, box=face.box + shift) for shift in (-180, 90, 180)]
    (again,) = detector.follow(image, [before, *elsewhere])
    assert np.abs(again.box - face.box).max() < 8
    assert np.abs(again.landmarks - face.landmarks).max() < 6
    assert not detector.follow(image, elsewhere)


def test_an_unknown_detector_is_refused():
    with pytest.raises(ValueError, match="detection must be fast or thorough, got 'quick'"):
        detector_of("quick")


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("deid_diffusion.weight_files._PACKAGE", tmp_path / "deid_diffusion")
    with pytest.raises(FileNotFoundError, match="no shipped weights 'centerface'"):
        CenterFaceDetector()(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("boxes", "scores", "kept"),
    [
        ([], [], 0),
        ([[0, 0, 10, 10], [1, 0, 11, 10]], [0.9, 0.8], 1),  # one face, seen twice
        ([[0, 0, 10, 10], [9, 0, 19, 10]], [0.9, 0.8], 2),  # cheek to cheek
        ([[0, 0, 100, 100], [40, 40, 55, 55]], [0.9, 0.8], 1),  # a nose
        ([[0, 0, 100, 100], [80, 80, 99, 99]], [0.9, 0.8], 2),  # a small face before a shoulder
        ([[0, 0, 100, 100], [40, 40, 55, 55]], [0.3, 0.8], 2),  # the larger stays
    ],
)
def test_merging(boxes, scores, kept):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    merged = merge(Found(boxes, np.zeros((len(boxes), 5, 2), np.float32), np.array(scores, np.float32)))
    assert len(merged.scores) == kept
    assert (np.diff(merged.scores) <= 0).all()


def test_users_boxes_become_faces_with_points_inside():
    faces = faces_from_boxes([[10, 20, 50, 80], [90, 90, 120, 140]], (100, 100))
    assert [face.box.tolist() for face in faces] == [[10, 20, 50, 80], [90, 90, 100, 100]]
    assert (faces[0].landmarks > [10, 20]).all()
    assert (faces[0].landmarks < [50, 80]).all()
    assert roll_deg(faces[0].landmarks) == pytest.approx(0, abs=1e-3)
    assert faces_from_boxes([], (100, 100)) == []


@pytest.mark.parametrize(
    "box",
    [
        [50, 20, 10, 80], [200, 20, 250, 80], [0, 0, float("nan"), 5], [5, 5, 5, 9],
        [0.2, 0.3, 0.6, 0.7], [0, 0, 1, 1], [10, 20, 13, 80], [98, 20, 130, 80],
    ],
)  # fmt: skip
def test_a_users_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match="a box must be"):
        faces_from_boxes([[10, 20, 50, 80], box], (100, 100))


@pytest.mark.parametrize(
    "boxes",
    [
        [10, 20, 50, 80], [[10, 20, 50]], [[10, 20, 50, 80, 0.9]] * 4, [["10", "20", "50", "80"]], [[True] * 4], [[]],
        [[10, 20, 50, 80], [10, 20]], [[None] * 4], "10 20 50 80", np.zeros((2, 2, 4)),
    ],
)  # fmt: skip
def test_what_is_no_list_of_boxes_is_refused(boxes):
    with pytest.raises(ValueError, match="boxes must be"):
        faces_from_boxes(boxes, (100, 100))


def test_in_a_tiny_picture_a_box_may_be_as_small_as_it():
    assert faces_from_boxes([[0, 0, 3, 2]], (2, 3))[0].box.tolist() == [0, 0, 3, 2]
