from dataclasses import replace

import cv2
import numpy as np
import pytest
from skimage import data

from deid_diffusion.faces.detect import TEMPLATE, CenterFaceDetector
from deid_diffusion.faces.fast_detect import FastDetector
from deid_diffusion.types import Face
from tests.faces.test_detect import BOX, POINTS

DETECTOR = CenterFaceDetector()
SURE = Face(BOX, POINTS, 0.95)


def found(x0: float, y0: float, x1: float, y1: float, score: float = 0.5) -> Face:
    box = np.array([x0, y0, x1, y1])
    return Face(box, box[:2] + TEMPLATE * (box[2:] - box[:2]), score)


def pasted(x: int, y: int, side: int) -> tuple[np.ndarray, Face]:
    """The astronaut with her own face, smaller, somewhere about her head."""
    image, (x0, y0, x1, y1) = data.astronaut().copy(), BOX.astype(int)
    image[y : y + side, x : x + side] = cv2.resize(image[y0 - 5 : y1 + 5, x0 - 12 : x1 + 12], (side, side))
    return image, found(x + 0.1 * side, y + 0.05 * side, x + 0.9 * side, y + 0.95 * side)


def kept(image: np.ndarray, *faces: Face) -> list[Face]:
    return DETECTOR._kept(image, list(faces))


# On her ear, in her hair, on her cheek; the sizes are those of such finds in photos.
FALSE = [found(166, 108, 190, 140), found(190, 15, 262, 68), found(175, 120, 210, 160)]


@pytest.mark.parametrize("false", FALSE)
def test_what_passes_for_a_face_in_the_head_of_a_sure_one_is_taken_out(false):
    assert kept(data.astronaut(), SURE, false) == [SURE]


@pytest.mark.parametrize(("x", "y", "side"), [(140, 40, 60), (255, 90, 40), (200, 20, 50), (185, 130, 40)])
def test_real_faces_beside_and_before_a_larger_one_stay(x, y, side):
    image, small = pasted(x, y, side)
    assert kept(image, SURE, small) == [SURE, small]


def test_elsewhere_and_at_the_border_and_without_a_sure_face_nothing_is_taken_out():
    image, false = data.astronaut(), FALSE[1]
    away = found(20, 20, 80, 80)
    assert kept(image, SURE, away) == [SURE, away]
    unsure = replace(SURE, score=0.7)
    assert kept(image, unsure, false) == [unsure, false]
    cut = image[18:]
    moved = [replace(one, box=one.box - [0, 18, 0, 18], landmarks=one.landmarks - [0, 18]) for one in (SURE, false)]
    moved[1] = replace(moved[1], box=np.maximum(moved[1].box, 0))
    assert kept(cut, *moved) == moved


def test_both_detectors_take_them_out_in_whole_pictures_and_at_a_glance(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "deid_diffusion.faces.detect.without_false_alarms", lambda image, faces, network: asked.append(faces) or []
    )
    small, fast = data.astronaut()[::2, ::2].copy(), FastDetector(_network=DETECTOR._network)
    assert [fast(small), DETECTOR(small), DETECTOR.glance(small)] == [[], [], []]
    assert [len(faces) for faces in asked] == [1, 1, 1]
