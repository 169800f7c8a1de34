"""What a clip's first pass looks at, and how closely."""

import numpy as np

from deid_diffusion.faces.looks import FEW, GLANCE_S
from deid_diffusion.faces.scan import Scan
from tests.faces.test_tracks import FPS, face

WIDTH = 640


def looked(count: int, faces: int = 1, missed: tuple[int, ...] = ()) -> list[str]:
    """What was looked at, in order, for faces of which none is seen at its place in some frames."""
    calls = []
    crowd = [face(10 + 50 * place, side=40) for place in range(faces)]

    def finds(name: str):
        def find(image, known=None):
            calls.append(name)
            number = len(scan.linker.times_s)
            return [] if name == "follow" and number in missed else crowd

        return find

    scan = Scan(finds("glance"), finds("look"), follow=finds("follow"))
    for number in range(count):
        scan.add(np.full((360, 640, 3), number, np.uint8), number / FPS)
        assert len(scan.linker.tracks) == faces
    return calls


def test_known_faces_are_looked_at_where_they_were():
    every = round(GLANCE_S * FPS)
    assert every == 3
    assert looked(7) == ["glance", "look", "follow", "follow", "glance", "follow", "follow", "glance"]


def test_a_crowd_is_looked_at_as_a_whole():
    assert "follow" in looked(4, FEW)
    assert "follow" not in looked(4, FEW + 1)


def test_a_face_that_is_not_where_it_was_is_looked_for_everywhere():
    first = ["glance", "look"]
    assert looked(5, missed=(1,)) == [*first, "follow", "glance", "follow", "follow", "glance"]
    assert looked(5, missed=(2, 4)) == [*first, "follow", "follow", "glance", "follow", "follow", "glance"]
