"""What the patches of one face share from frame to frame."""

from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.compositing.paste import Patch, paste_faces
from deid_diffusion.compositing.steady import EVERY, Steady
from deid_diffusion.faces.geometry import crop_from_image
from tests.compositing.test_paste import SIDE, crop_of, five_points

FLAT = np.full((SIDE, SIDE, 3), 140, np.uint8)
ROUGH = np.full(3, 2.0, np.float32)


def test_a_value_eases_to_what_is_measured_now_and_then():
    steady, asked = Steady(0), []

    def say(value):
        return lambda: asked.append(value) or np.array([value])

    first = steady.eased("grain", say(1.0))
    later = [float(steady.eased("grain", say(3.0))[0]) for _ in range(4 * EVERY)]
    assert first == pytest.approx(1)
    assert asked == [1.0] + [3.0] * 4
    assert later[: EVERY - 1] == pytest.approx([1] * (EVERY - 1))
    steps = np.diff(later)
    assert (steps >= 0).all()
    assert steps.max() < 0.7
    assert later[-1] > 2.9
    assert steady.eased("other", say(7.0)) == pytest.approx(7)


def patch(picture: np.ndarray, x: float, seed: int, steady: Steady | None) -> np.ndarray:
    """(H, W) levels of a flat face of 140 px with texture, pasted about x."""
    crop = crop_of(picture, crop_from_image(five_points((x, 150), 90), SIDE))
    pasted, _ = paste_faces(picture, [Patch(FLAT, crop, seed, ROUGH, steady)])
    return pasted[..., 0].astype(float)


def test_texture_sticks_to_the_face_and_is_drawn_anew_without():
    picture = np.full((300, 320, 3), 140, np.uint8)
    steady = Steady(5)
    one, moved = patch(picture, 150, 1, steady), patch(picture, 158, 2, steady)
    inner = slice(120, 180), slice(120, 180)
    there = slice(120, 180), slice(128, 188)

    def alike(a, b):
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    assert one[inner].std() > 0.5
    assert alike(one[inner], moved[there]) > 0.8
    assert abs(alike(patch(picture, 150, 1, None)[inner], patch(picture, 158, 2, None)[there])) < 0.2


def test_a_step_in_what_surrounds_a_face_does_not_step_in_the_face():
    picture = np.full((300, 320, 3), 140, np.uint8)
    crop = crop_of(picture, crop_from_image(five_points((150, 150), 90), SIDE))
    grainy = np.clip(picture + np.random.default_rng(1).normal(0, 4, (300, 320, 1)), 0, 255).astype(np.uint8)
    inner = slice(130, 170), slice(130, 170)

    def rough(steady):
        results = [
            paste_faces(
                frame, [Patch(FLAT, replace(crop, image=crop_of(frame, crop.crop_from_image).image), n, None, steady)]
            )[0]
            for n, frame in enumerate([picture] + [grainy] * (EVERY + 1))
        ]
        return [float(one[inner].astype(float).std()) for one in results]

    jumps, eased = np.diff(rough(None)), np.diff(rough(Steady(0)))
    assert jumps.max() > 1
    assert eased.max() < 0.7 * jumps.max()
