"""Linking over time and what is known between, on synthetic motions."""

import numpy as np
import pytest

from deid_diffusion.faces.sightings import EXTEND_S, Origin, fill
from deid_diffusion.faces.tracks import GAP_S, Linker, assign, group_people, join_backwards
from deid_diffusion.types import Face

FPS, SIZE = 30.0, (640, 360)
FIVE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def face(x: float, y: float = 180.0, side: float = 60.0, score: float = 0.9) -> Face:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
    return Face(box, box[:2] + FIVE * side, score)


def linked(frames, cuts=(), fps=FPS, embed=None) -> Linker:
    linker = Linker()
    for number, faces in enumerate(frames):
        linker.add(faces, number / fps, number in cuts, embed)
    return linker


def filled(linker, people=None, first=0):
    return fill(list(linker.tracks.values()), linker.times_s, linker.starts, SIZE, people, first)


def origins(rows, track=0):
    return [next((one.origin.value[0] for one in row if one.face.track_id == track), ".") for row in rows]


def test_a_moving_face_is_one_track_from_its_first_frame():
    linker = linked([[face(100 + 8 * n, score=0.2)] for n in range(20)])
    assert list(linker.tracks) == [0]
    assert list(linker.tracks[0].found) == list(range(20))
    assert {one.track_id for one in linker.tracks[0].found.values()} == {0}


def test_a_fast_head_is_followed_by_its_speed():
    # It moves by more than its own size in a frame, so that its boxes do not overlap.
    places = np.cumsum([60, 30, 35, 45, 60, 80, 95, 95])
    linker = linked([[face(x)] for x in places])
    assert len(linker.tracks) == 1
    assert places[-1] - places[-2] > 60


def test_faces_that_pass_each_other_keep_their_tracks():
    frames = [[face(100 + 10 * n, 150), face(400 - 10 * n, 190)] for n in range(30)]
    linker = linked(frames)
    assert len(linker.tracks) == 2
    assert linker.tracks[0].found[29].box[0] == pytest.approx(frames[29][0].box[0])


def test_where_two_links_are_as_good_the_identity_encoder_decides():
    one, other = np.eye(2, dtype=np.float32)
    frames = [[face(220), face(280)], [face(249, 170), face(251, 190)]]
    for swapped in (False, True):
        linker = Linker()
        linker.add(frames[0], 0.0)
        linker.tracks[0].embedding, linker.tracks[1].embedding = one, other
        asked = []

        def embed(places, swapped=swapped, asked=asked):
            asked.extend(places)
            return {0: other, 1: one} if swapped else {0: one, 1: other}

        numbers = linker.add(frames[1], 1 / FPS, embed=embed)
        assert numbers == ([1, 0] if swapped else [0, 1])
        assert sorted(asked) == [0, 1]


def test_the_identity_encoder_is_not_asked_where_faces_are_far_apart():
    def embed(places):
        raise AssertionError("asked")

    assert len(linked([[face(100), face(400)]] * 3, embed=embed).tracks) == 2


def test_tracks_end_at_cuts():
    linker = linked([[face(100)]] * 6, cuts={3})
    assert [list(track.found) for track in linker.tracks.values()] == [[0, 1, 2], [3, 4, 5]]
    assert linker.starts == [0, 3]
    assert [len(row) for row in filled(linker)] == [1] * 6


def test_a_gap_is_interpolated():
    frames = [[face(100 + 4 * n)] if n < 5 or n > 14 else [] for n in range(20)]
    rows = filled(linked(frames))
    assert "".join(origins(rows)) == "f" * 5 + "i" * 10 + "f" * 5
    centres = [(row[0].face.box[0] + row[0].face.box[2]) / 2 for row in rows]
    assert np.allclose(centres, [100 + 4 * n for n in range(20)], atol=1e-3)


def test_a_lost_face_is_held_in_a_growing_box_until_the_cut():
    frames = [[face(300)]] * 10 + [[]] * 80
    rows = filled(linked(frames, cuts={75}))
    extended = round(EXTEND_S * FPS)
    assert "".join(origins(rows)) == "f" * 10 + "e" * extended + "h" * (65 - extended) + "." * 15
    sides = [row[0].face.box[2] - row[0].face.box[0] for row in rows[9:75]]
    assert sides == sorted(sides)
    assert sides[-1] == pytest.approx(90)


def test_a_lost_face_is_held_until_somebody_is_found_there():
    frames = [[face(300)]] * 5 + [[]] * 60 + [[face(310)]] * 5
    rows = filled(linked(frames))
    assert origins(rows)[64] == "h"
    assert origins(rows)[65] == "."


def test_a_lost_face_is_held_until_the_same_person_is_found_elsewhere():
    linker = linked([[face(300)]] * 5 + [[]] * 60 + [[face(100)]] * 5)
    assert origins(filled(linker))[69] == "h"
    assert origins(filled(linker, {0: 0, 1: 0}))[65:] == ["."] * 5


def test_a_face_that_leaves_the_picture_is_not_held():
    rows = filled(linked([[face(600 + n)] for n in range(10)] + [[]] * 60))
    assert "h" not in origins(rows)
    assert origins(rows)[10] == "e"


@pytest.mark.parametrize(("score", "count", "held"), [(0.2, 1, 0), (0.7, 12, 5), (0.7, 60, 24), (0.8, 1, None)])
def test_what_was_never_clear_is_held_for_as_long_as_it_was_seen(score, count, held):
    rows = filled(linked([[]] * 40 + [[face(300, score=score)]] * count + [[]] * 60))
    told = origins(rows)
    assert told[34 : 46 + count] == ["e"] * 6 + ["f"] * count + ["e"] * 6
    # A clear one until the end, and a second before it came.
    before, after = (24, 54) if held is None else (held, held)
    assert told[:34].count("h") == before
    assert told[46 + count :].count("h") == after


@pytest.mark.parametrize(("score", "x", "seen"), [(0.3, 310, "f....."), (0.8, 310, "feeeee"), (0.3, 400, "feeeee")])
def test_what_was_never_clear_does_not_go_on_at_the_place_of_a_clear_face(score, x, seen):
    # Once, beside the face's middle or elsewhere.
    frames = [[face(300, side=100), *([face(x, 190, 90, score=score)] if n == 0 else [])] for n in range(6)]
    assert "".join(origins(filled(linked(frames)), 1)) == seen


def test_a_stream_that_drops_the_clear_frame_goes_on_holding():
    linker = linked([[face(300, score=0.8 if n < 3 else 0.5)] for n in range(20)] + [[]] * 60)
    (track,) = linker.tracks.values()
    for frame in range(15):
        del track.found[frame]
    assert origins(filled(linker, first=18))[-1] == "h"


def test_a_face_that_appears_in_the_middle_is_carried_back():
    rows = filled(linked([[]] * 60 + [[face(300)]] * 10))
    back = origins(rows)[:60]
    assert back[-round(EXTEND_S * FPS) :] == ["e"] * round(EXTEND_S * FPS)
    assert back.count("h") == round((GAP_S - EXTEND_S) * FPS)
    assert back[0] == "."


def test_looking_back_joins_what_looking_forward_could_not():
    # Still, then unseen, then at a speed that tells where it came from.
    frames = [[face(200)]] * 10 + [[]] * 10 + [[face(354 + 14 * n)] for n in range(8)]
    linker = linked(frames)
    assert len(linker.tracks) == 2
    assert join_backwards(linker) == {1: 0}
    assert list(linker.tracks) == [0]
    assert list(linker.tracks[0].found) == [*range(10), *range(20, 28)]


def test_nothing_is_joined_across_a_cut():
    linker = linked([[face(200)]] * 10 + [[]] * 5 + [[face(200)]] * 5, cuts={12})
    assert join_backwards(linker) == {}


def test_a_clip_told_in_parts_is_told_alike():
    frames = [[face(100 + 4 * n)] if n < 12 or n > 18 else [] for n in range(30)] + [[]] * 20
    linker = linked(frames)
    whole = filled(linker)
    parts = [filled(linker, first=first)[0] for first in range(len(frames))]
    assert [[one.origin for one in row] for row in parts] == [[one.origin for one in row] for row in whole]


def test_one_person_in_two_tracks_but_not_twice_in_one_frame():
    same = np.array([1, 0], np.float32)
    linker = linked([[face(100), face(400)]] * 3 + [[face(100)]] * 3, cuts={3})
    for track in linker.tracks.values():
        track.embedding = same
    people = group_people(list(linker.tracks.values()), 0.5)
    assert people[0] != people[1]
    assert people[2] in (people[0], people[1])
    assert len(set(group_people(list(linker.tracks.values()), 1.1).values())) == 3


def test_who_could_not_be_read_is_nobody_elses():
    linker = linked([[face(100)]] * 2 + [[face(100)]] * 2, cuts={2})
    linker.tracks[0].embedding = np.array([1, 0], np.float32)
    assert len(set(group_people(list(linker.tracks.values()), -1.0).values())) == 2


def test_time_must_go_on():
    linker = linked([[face(100)]])
    with pytest.raises(ValueError, match=r"in order of time, got 0\.000 s after 0\.000 s"):
        linker.add([], 0.0)


def test_links_are_taken_once():
    assert assign(np.array([[0.1, 0.2], [0.15, 1e6]])) == [(0, 0)]
    assert assign(np.zeros((0, 3))) == []
    assert Origin.HELD.value == "held"
