"""What a clip's first pass looks at, and how closely."""

import numpy as np
import pytest

from deid_diffusion.faces.scan import LARGE, WIDE_EVERY, Scan
from tests.faces.test_tracks import FPS, face

WIDTH = 640


def looked(count: int, side: float, missed: tuple[int, ...] = ()) -> list[str]:
    """What was looked through, in order, for a face of `side` pixels that the smallest look misses in some frames."""
    calls = []

    def finds(name: str):
        def find(image):
            calls.append(name)
            number = len(scan.linker.times_s)
            return [] if name == "peek" and number in missed else [face(300, side=side)]

        return find

    scan = Scan(finds("glance"), finds("look"), peek=finds("peek"))
    for number in range(count):
        scan.add(np.full((360, WIDTH, 3), number, np.uint8), number / FPS)
        assert len(scan.linker.tracks) == 1
    return calls


def test_a_large_face_is_looked_for_in_small_frames():
    assert looked(7, WIDTH * LARGE + 5) == ["glance", "look", "peek", "peek", "glance", "peek", "peek", "glance"]
    assert WIDE_EVERY == 3


def test_a_small_face_is_not():
    assert "peek" not in looked(7, WIDTH * LARGE - 5)


@pytest.mark.parametrize("missed", [(1,), (2, 4)])
def test_a_face_that_the_small_frame_does_not_show_is_looked_for_again(missed):
    calls = looked(7, 100, missed)
    assert calls.count("look") == 1
    assert calls.count("glance") == 3 + len(missed)
