"""Where a new shot begins."""

import numpy as np

from deid_diffusion.imaging.shots import is_cut, thumbnail


def scene(hue: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.zeros((90, 160, 3), np.uint8)
    image[..., hue] = rng.integers(60, 200, (90, 1), np.uint8) // 2 + np.linspace(0, 100, 160).astype(np.uint8)
    return image


def test_another_scene_is_a_cut():
    assert is_cut(thumbnail(scene(0)), thumbnail(scene(1, 5)))


def test_neither_the_same_nor_a_pan_nor_other_colours_alone_are():
    image = scene(0)
    faint = image // 8
    assert not is_cut(thumbnail(image), thumbnail(image))
    assert not is_cut(thumbnail(image), thumbnail(np.roll(image, 60, axis=1)))
    assert not is_cut(thumbnail(faint), thumbnail(faint[..., ::-1]))


def test_thumbnails_are_of_one_size():
    assert thumbnail(np.zeros((5, 999, 3), np.uint8)).shape == (36, 64, 3)
