"""Detections that a person edited, from `deid detect` back into `deid run`; the one fake is the detector."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.clip_options import ClipOptions
from deid_diffusion.faces.face_list import BY_HAND, FaceList, FaceListError, summarized
from deid_diffusion.faces.face_list_reader import read_face_lists
from deid_diffusion.faces.scan import Scan
from deid_diffusion.faces.sightings import Origin, Sighting
from deid_diffusion.methods.redact import GREY
from deid_diffusion.types import Face, Outcome, Redaction
from deid_diffusion.video import VideoAnonymizer
from deid_diffusion.weight_files import sha256_of
from tests.test_anonymizer import covered, face
from tests.test_video import FPS, ONE_PERSON, QUICK, build, clip

HEAD = {"file": "a.mkv", "sha256": "", "width": 96, "height": 64, "frames": 7, "tracks": []}
ROW = {"file": "a.mkv", "frame": 3, "box": [20, 10, 50, 50]}


def write(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def told(faces_of, count: int, **more) -> FaceList:
    """A list as `deid detect` would write it, of frames of 280 x 200."""
    rows = [[Sighting(one) for one in faces_of(number)] for number in range(count)]
    tracks = summarized(rows, [n / FPS for n in range(count)])
    return FaceList("a.mkv", "", 280, 200, count, tracks=tracks, sightings=dict(enumerate(rows)), **more)


def test_what_is_written_is_read_back(tmp_path):
    one = replace(face(40, 25, 12), score=0.5, track_id=4)
    rows = {2: (Sighting(one),), 3: (Sighting(one, Origin.HELD),)}
    tracks = summarized([(), *rows.values()], [0, 1, 2])
    given = FaceList("a.mkv", "0" * 64, 96, 64, 7, 0.5, None, (5,), tracks, rows, {4: Redaction.BLUR})
    read = read_face_lists(write(tmp_path / "faces.jsonl", *given.lines({2: {"pts": 80, "time_s": 0.08}})))["a.mkv"]
    assert read.describe()[:3] == given.describe()[:3]
    assert read.tracks == given.tracks
    assert read.failed == (5,)
    assert read.removed == ()
    assert read.redact_with == {4: Redaction.BLUR}
    for frame, (sighting,) in rows.items():
        (again,) = read.sightings[frame]
        assert again.face.box == pytest.approx(sighting.face.box, abs=0.01)
        assert again.face.landmarks == pytest.approx(sighting.face.landmarks, abs=0.01)
        assert (again.origin, again.face.track_id, again.face.score) == (sighting.origin, 4, 0.5)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((), "got none"),
        (("[1, 2]",), "line 1: wanted the JSON lines"),
        (("{",), "line 1: wanted JSON"),
        ((ROW,), "'a.mkv' has no first line above"),
        ((HEAD, HEAD), "line 2: wanted one first line"),
        ((HEAD | {"frames": 0},), "from 1 on as frames, got 0"),
        ((HEAD | {"sha256": "abc"},), "wanted the file's sha256"),
        ((HEAD | {"tracks": [{}]},), "wanted tracks as"),
        ((HEAD | {"colour": 1},), "got 'colour'"),
        ((HEAD | {"redact_with": {"1": "melt"}},), "redact_with must be one of blank, blur, pixelate, got 'melt'"),
        ((HEAD | {"redact_with": ["blur"]},), "wanted {.*} as redact_with, got list"),
        ((HEAD | {"redact_with": {"7": "blur"}},), r"wanted tracks of 'a.mkv' as redact_with, got \[7\]"),
        ((HEAD, ROW | {"orgin": "found"}), "line 2: wanted box, file, .*, got 'orgin'"),
        ((HEAD, ROW | {"frame": 7}), "wanted a frame from 0 to 6, got 7"),
        ((HEAD, ROW | {"frame": 1.5}), "as frame, got 1.5"),
        ((HEAD, ROW | {"origin": "seen"}), "wanted found, interpolated, extended, held as origin, got 'seen'"),
        ((HEAD, ROW | {"track_id": -1}), "as track_id, got -1"),
        ((HEAD, ROW | {"score": 2}), "from 0 to 1, got 2"),
        ((HEAD, ROW | {"points": [[1, 2]]}), "wanted five points"),
        ((HEAD, ROW | {"box": [1, 2, 3]}), "wanted four numbers in pixels"),
        ((HEAD, ROW | {"box": ["1", 2, 3, 4]}), "wanted four numbers in pixels"),
        ((HEAD, ROW | {"box": [1, 2, 3, float("nan")]}), "wanted four numbers in pixels"),
        ((HEAD, ROW | {"box": [0.1, 0.1, 0.5, 0.5]}), "fractions"),
        ((HEAD, ROW | {"box": [50, 50, 20, 30]}), "x1 > x0 and y1 > y0; got 50 50 20 30"),
        ((HEAD, ROW | {"box": [20, 20, 22, 40]}), "at least 4 px"),
        ((HEAD, ROW | {"box": [100, 70, 130, 90]}), "a box inside the picture"),
        ((HEAD, ROW | {"track_id": 1}, ROW | {"track_id": 1}), "track 1 once in frame 3"),
    ],
)
def test_what_cannot_be_true_is_refused(tmp_path, rows, said):
    with pytest.raises(FaceListError, match=said):
        read_face_lists(write(tmp_path / "faces.jsonl", *rows))


def test_points_of_a_box_that_was_moved_are_not_believed(tmp_path):
    points = face(36, 22, 12).landmarks.tolist()
    moved = ROW | {"box": [60, 10, 90, 50], "frame": 4, "points": points}
    read = read_face_lists(write(tmp_path / "faces.jsonl", HEAD, ROW | {"points": points, "score": 0.8}, moved))
    assert [read["a.mkv"].sightings[frame][0].face.score for frame in (3, 4)] == [0.8, 0.0]


def test_a_track_without_a_line_that_found_it_counts_as_found(tmp_path):
    rows = [ROW | {"frame": n, "track_id": 2, "origin": "held"} for n in (1, 2)]
    read = read_face_lists(write(tmp_path / "faces.jsonl", HEAD, *rows))["a.mkv"]
    assert {row[0].origin for row in read.sightings.values()} == {Origin.FOUND}


def scanned(listed: FaceList, frames, look_at=None) -> Scan:
    def never(image):
        raise AssertionError("looked")

    scan = Scan(never, never, None, listed, look_at)
    for number, image in enumerate(frames):
        scan.add(image, number / FPS)
    scan.finish()
    return scan


def test_boxes_by_hand_are_linked_interpolated_and_extended():
    sightings = {n: (Sighting(Face(face(60 + 3 * n, 90).box, face(60 + 3 * n, 90).landmarks)),) for n in (10, 20)}
    listed = FaceList("a.mkv", "", 280, 200, 60, sightings=sightings)
    rows = scanned(listed, clip(60)).sightings()
    origins = ["".join(one.origin.value[0] for one in row) for row in rows]
    assert origins == [""] * 4 + ["e"] * 6 + ["f"] + ["i"] * 9 + ["f"] + ["e"] * 6 + [""] * 33
    assert {one.face.track_id for row in rows for one in row} == {0}
    assert rows[15][0].face.box == pytest.approx(face(105, 90).box, abs=0.01)


def test_boxes_of_one_number_are_one_track_over_any_time_but_not_over_a_cut():
    one = replace(face(90, 90), track_id=7)
    listed = FaceList("a.mkv", "", 280, 200, 90, sightings={n: (Sighting(one),) for n in (5, 60, 80)})
    rows = scanned(listed, clip(90, cut=70)).sightings()
    assert [rows[n][0].origin.value for n in (5, 30, 60, 80)] == ["found", "interpolated", "found", "found"]
    assert [rows[n][0].face.track_id for n in (5, 60, 80)] == [7, 7, 8]
    assert rows[69] == []


def test_lines_that_nobody_found_are_taken_as_they_are_and_nothing_more_is_held():
    one = replace(face(90, 90), track_id=0, score=0.9)
    sightings = {n: (Sighting(one, Origin.FOUND if n < 5 else Origin.HELD),) for n in range(8)}
    rows = scanned(FaceList("a.mkv", "", 280, 200, 60, sightings=sightings), clip(60)).sightings()
    assert ["".join(one.origin.value[0] for one in row) for row in rows] == ["f"] * 5 + ["h"] * 3 + [""] * 52


def anonymized(listed, count=8, settings=QUICK, where=lambda number: 1 / 0):
    """The results of frames, of which the detector must not see one."""
    run = VideoAnonymizer(build(where, ONE_PERSON))._begin(0, settings, {}, listed)
    frames = clip(count)
    for number, image in enumerate(frames):
        run.scan.add(image, number / FPS)
    run.begin()
    return frames, [result for _, result in run.results((image, None) for image in frames)], run


def test_a_track_that_was_taken_out_stays_and_is_reported():
    def faces(number):
        return [replace(face(70, 90), track_id=0), replace(face(200, 90), track_id=1)]

    listed = told(faces, 8)
    left = {frame: row[:1] for frame, row in listed.sightings.items()}
    frames, results, run = anonymized(replace(listed, sightings=left))
    for image, result in zip(frames, results, strict=True):
        assert covered(image, result.image, faces(0)[0])
        assert np.array_equal(image[:, 170:], result.image[:, 170:])
    report = run.finish(None, ())
    kept = report.tracks[1].to_json()
    assert (kept["outcome"], kept["reason"], kept["frames"]["kept"]) == ("kept", f"{BY_HAND} (8 frames)", 8)
    assert "by hand: tracks 1" in report.notes[0]


@pytest.mark.parametrize("method", ["inpaint", "pixelate"])
def test_a_track_is_hidden_as_it_was_named_whatever_becomes_of_the_others(method):
    listed = told(lambda number: [replace(face(70, 90), track_id=0), replace(face(200, 90), track_id=1)], 4)
    listed = replace(listed, redact_with={1: Redaction.BLANK})
    frames, results, run = anonymized(listed, 4, replace(QUICK, method=method))
    for image, result in zip(frames, results, strict=True):
        assert covered(image, result.image, face(70, 90))
        assert not (result.image[70:110, 60:80] == GREY).all()
        assert (result.image[75:105, 190:210] == GREY).all()
    outcomes = {"inpaint": "replaced", "pixelate": "redacted"}[method], "redacted"
    assert tuple(run.finish(None, ()).tracks[n].to_json()["outcome"] for n in (0, 1)) == outcomes
    assert 1 not in run.roles.settled  # nobody asks who they are


def test_a_box_that_was_added_is_treated():
    frames, results, run = anonymized(told(lambda number: [face(120, 90)] if number in (2, 5) else [], 8))
    assert [[one.outcome for one in result.faces] for result in results] == [[Outcome.REPLACED]] * 8
    assert all(covered(image, result.image, face(120, 90)) for image, result in zip(frames, results, strict=True))
    assert run.result.tracks[0].origins == {Origin.FOUND: 2, Origin.INTERPOLATED: 2, Origin.EXTENDED: 4}


def test_a_box_in_which_no_face_is_found_is_hidden():
    # Noise has no face: the real detector looks at the box.
    listed = told(lambda number: [replace(face(120, 90), score=0.0)], 4)
    frames, results, _ = anonymized(listed, 4)
    assert all(covered(image, result.image, face(120, 90)) for image, result in zip(frames, results, strict=True))
    assert {one.outcome for result in results for one in result.faces} == {Outcome.REDACTED}


def test_frames_in_which_looking_failed_are_blurred():
    _, results, _ = anonymized(replace(told(lambda number: [], 4), failed=(0, 2)), 4)
    assert [result.changed_mask.all() for result in results] == [True, False, True, False]


def test_a_part_of_a_clip_needs_the_boxes_of_that_part(tmp_path):
    (tmp_path / "a.mkv").write_bytes(b"clip")
    listed = FaceList("a.mkv", sha256_of(tmp_path / "a.mkv"), 96, 64, 7, 1.0, 2.5)
    video = VideoAnonymizer(build(thresholds=ONE_PERSON), ClipOptions(start_s=1.0))
    with pytest.raises(FaceListError, match=r"--from 1 --to 2\.5, got --from 1;"):
        video(tmp_path / "a.mkv", tmp_path / "out.mkv", boxes=listed)


def test_boxes_of_another_clip_are_refused(tmp_path):
    (tmp_path / "a.mkv").write_bytes(b"clip")
    video = VideoAnonymizer(build(thresholds=ONE_PERSON))
    boxes = write(tmp_path / "faces.jsonl", HEAD | {"sha256": "0" * 64})
    with pytest.raises(FaceListError, match=r"got another one \(its sha256 differs\)"):
        video(tmp_path / "a.mkv", tmp_path / "out.mkv", boxes=boxes)
    with pytest.raises(FaceListError, match=r"wanted its boxes, got those of 'a\.mkv'"):
        video(tmp_path / "b.mkv", tmp_path / "out.mkv", boxes=boxes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "faces.jsonl"]
