import importlib.util

import numpy as np
import pytest

from deid_diffusion.evaluation.detectors import detector_from_spec, match_face
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.types import Face

POINTS = np.array([(40.0, 40), (60, 40), (50, 50), (42, 60), (58, 60)])


def _face(x: float, y: float, side: float = 40.0) -> Face:
    return Face([x, y, x + side, y + side], POINTS - 30 + (x, y), 1.0)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return pytest.importorskip("skimage.data").astronaut()


@pytest.mark.parametrize("spec", ["dlib", "centerface"])
def test_ordinary_packages_find_the_astronaut(astronaut, spec):
    if spec == "dlib" and (
        importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None
    ):
        pytest.skip("dlib-bin and face_recognition_models are not installed (extra eval)")
    detector = detector_from_spec(spec)
    (face,) = detector(astronaut)
    eyes = np.array([(207, 105), (244, 107)])
    assert np.abs(face.landmarks[:2] - eyes).max() < 12
    assert detector.same_as_pipeline == (spec == "centerface")
    assert detector(np.full((200, 200, 3), 90, np.uint8)) == []
    (half,) = detector(np.repeat(np.repeat(astronaut, 2, axis=0), 2, axis=1))
    assert half.landmarks / 2 == pytest.approx(face.landmarks, abs=8)


@pytest.mark.parametrize("spec", ["", "yunet", "yunet:", "mtcnn", "yunet:nowhere.onnx"])
def test_a_detector_that_is_none_is_refused(spec):
    with pytest.raises(EvaluationError, match=r"detector must be|no YuNet file"):
        detector_from_spec(spec)


@pytest.mark.parametrize(
    ("places", "index"),
    [([], None), ([(100, 100)], None), ([(100, 100), (35, 35)], 1), ([(38, 30), (31, 30)], 1), ([(60, 60)], None)],
)
def test_a_face_is_matched_by_place(places, index):
    found = [_face(*place) for place in places]
    assert match_face(_face(30, 30), found) is (None if index is None else found[index])


def test_a_much_smaller_box_at_the_same_centre_is_the_same_face():
    small = _face(43, 43, side=14)
    assert match_face(_face(30, 30), [small]) is small
