"""Clips from file to file, and as jobs beside pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.clip_options import ClipOptions
from deid_diffusion.clip_run import ClipRun
from deid_diffusion.faces.face_list import FaceList
from deid_diffusion.faces.sightings import Sighting
from deid_diffusion.jobs.journal import Journal
from deid_diffusion.jobs.plan import plan
from deid_diffusion.jobs.run import run
from deid_diffusion.types import Outcome
from deid_diffusion.video import VideoAnonymizer
from tests.fakes import photo
from tests.test_anonymizer import covered, face
from tests.test_video import FAST, NEVER, ONE_PERSON, QUICK, build

clips = pytest.importorskip("deid_diffusion.imaging.clips", reason="clips in files are not there yet")
pytest.importorskip("av", reason="needs PyAV; pip install 'deid-diffusion[video]'")
make_clip = pytest.importorskip("tests.imaging.clip_maker").make_clip

SOMEBODY = [face(48, 28, 12)]


def images(path) -> list[np.ndarray]:
    with clips.ClipReader(path) as reader:
        return [frame.image for frame in reader]


@pytest.fixture
def source(tmp_path):
    return make_clip(tmp_path / "clip.mkv", pix_fmt="yuv444p", count=7)


def test_a_file_is_written_whole_and_off_the_faces_as_it_was(source, tmp_path):
    told = []
    video = VideoAnonymizer(build(lambda _: SOMEBODY, ONE_PERSON))
    result = video(source, tmp_path / "out.mkv", settings=QUICK, progress=lambda *row: told.append(row))
    before, after = images(source), images(tmp_path / "out.mkv")
    assert len(after) == result.frames == 7
    assert all(covered(a, b, SOMEBODY[0]) for a, b in zip(before, after, strict=True))
    assert all(np.array_equal(a[:, :16], b[:, :16]) for a, b in zip(before, after, strict=True))
    assert [row[:2] for row in told] == [(stage, n) for stage in ("look", "write") for n in range(1, 8)]
    (track,) = result.faces
    assert track.origins.total() == track.outcomes[Outcome.REPLACED] == 7
    assert track.to_json()["frames"]["found"] == 7
    assert json.dumps(track.to_json())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv", "out.mkv"]


def test_a_part_is_written(source, tmp_path):
    video = VideoAnonymizer(build(lambda _: SOMEBODY, ONE_PERSON), ClipOptions(start_s=0.08, stop_s=0.19))
    assert video(source, tmp_path / "out.mkv", settings=QUICK).frames == 3


def test_a_track_whose_mean_is_too_similar_is_redacted_throughout(source, tmp_path, monkeypatch):
    asked, real = [], ClipRun.too_similar

    def strict(self):
        # Single frames were let pass, so that only all of them together can be too similar.
        asked.append(self)
        self.policy = replace(self.policy, threshold=-1.01)
        return real(self)

    monkeypatch.setattr(ClipRun, "too_similar", strict)
    result = VideoAnonymizer(build(lambda _: SOMEBODY, ONE_PERSON))(source, tmp_path / "out.mkv", settings=QUICK)
    assert len(asked) == 2
    assert result.faces[0].outcomes == {Outcome.REDACTED: 7}
    assert "the mean of all its frames" in result.faces[0].to_json()["reason"]
    assert all(covered(a, b, SOMEBODY[0]) for a, b in zip(images(source), images(tmp_path / "out.mkv"), strict=True))


def test_the_review_list_names_what_nobody_saw(source, tmp_path):
    calls = []

    def where(_):
        calls.append(0)
        return SOMEBODY if len(calls) < 5 else []

    result = VideoAnonymizer(build(where, ONE_PERSON))(source, tmp_path / "out.mkv", settings=QUICK)
    (span,) = [span for span in result.review if span.track == 0]
    assert "extended" in span.reason
    assert span.stop_s == pytest.approx(0.24)


def test_clips_and_pictures_are_jobs_of_one_run(source, tmp_path):
    folder = tmp_path / "in"
    photo(folder / "a.png", 64)
    source.rename(folder / "clip.mkv")
    (folder / "bad.mp4").write_bytes(b"no clip")
    planned = plan([folder], tmp_path / "out")
    journal = Journal(planned.folder)
    anonymize = build(lambda _: SOMEBODY, NEVER)
    done = {result.job.name: result for result in run(planned.jobs, anonymize, FAST, journal)}
    assert {name: result.ok for name, result in done.items()} == {"a.png": True, "bad.mp4": False, "clip.mkv": True}
    assert "bad.mp4" in done["bad.mp4"].error
    assert done["clip.mkv"].picture["frames"] == 7
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file()) == sorted(
        [journal.path.name, "a.png", "clip.mkv"]
    )
    again = {result.job.name: result.earlier for result in run(planned.jobs, anonymize, FAST, journal)}
    assert again == {"a.png": True, "bad.mp4": False, "clip.mkv": True}
    other = run(planned.jobs, anonymize, FAST, journal, clips=ClipOptions(motion="coarse"))
    assert "other settings" in next(result for result in other if result.job.name == "clip.mkv").error


def test_frames_that_were_blurred_make_a_job_fail(source, tmp_path):
    calls = []

    def where(_):
        calls.append(0)
        if len(calls) == 4:
            raise RuntimeError("broken")
        return SOMEBODY

    planned = plan([source])
    (result,) = run(planned.jobs, build(where, ONE_PERSON), QUICK)
    assert result.ok
    assert result.failed_faces == 1
    assert result.picture["review"][0]["reason"] == "the whole frame was blurred: looking for faces failed"


def stopped(monkeypatch, at):
    """Interrupts a run as Ctrl-C does, after so many frames were told of a stage."""

    def progress(stage, done, total):
        if (stage, done) == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("at", "looks"), [(("look", 4), 3), (("look", 7), 0), (("write", 3), 0)])
def test_a_stopped_run_does_not_look_again(source, tmp_path, monkeypatch, at, looks):
    calls = []

    def where(_):
        calls.append(0)
        return SOMEBODY

    video = VideoAnonymizer(build(where, ONE_PERSON))
    whole = video(source, tmp_path / "whole.mkv", seed=3, settings=QUICK)
    with pytest.raises(KeyboardInterrupt):
        video(source, tmp_path / "out.mkv", seed=3, settings=QUICK, key="k", progress=stopped(monkeypatch, at))
    folder = tmp_path / ".deid-out.mkv.segments"
    saved = (folder / "looks.jsonl").read_text()
    assert len(saved.splitlines()) == 1 + (at[1] if at[0] == "look" else 7)
    (folder / "looks.jsonl").write_text(saved + "[[[1, 2")  # torn by a crash
    calls.clear()
    again = video(source, tmp_path / "out.mkv", seed=3, settings=QUICK, key="k")
    assert len(calls) == looks + (looks > 0)  # the first one thoroughly, too
    assert again.faces[0].to_json() == whole.faces[0].to_json()
    assert all(
        np.array_equal(a, b) for a, b in zip(*map(images, (tmp_path / "whole.mkv", tmp_path / "out.mkv")), strict=True)
    )
    assert not folder.exists()


def test_looks_of_another_clip_or_detector_are_not_used(source, tmp_path, monkeypatch):
    for number, where in enumerate((lambda _: SOMEBODY, lambda _: [])):
        video = VideoAnonymizer(build(where, ONE_PERSON))
        with pytest.raises(KeyboardInterrupt):
            video(source, tmp_path / "out.mkv", settings=QUICK, key="k", progress=stopped(monkeypatch, ("look", 3)))
        lines = (tmp_path / ".deid-out.mkv.segments" / "looks.jsonl").read_text().splitlines()
        assert [len(json.loads(line)) for line in lines[1:]] == [1 - number] * 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"panorama": True}, "panorama is for pictures"),
        ({"keep_metadata": ("date",)}, "keep_metadata is for pictures"),
        ({"method": "k-same"}, "does not follow motion"),
        ({"max_pixels": 6143}, "at most 6,143 pixels, got 96 x 64; --max-pixels"),
    ],
)
def test_what_clips_cannot_follow_is_refused_and_leaves_nothing(source, tmp_path, settings, said):
    video = VideoAnonymizer(build(lambda _: SOMEBODY, ONE_PERSON))
    with pytest.raises(ValueError, match=said):
        video(source, tmp_path / "out.mkv", settings=replace(QUICK, **settings), key="k")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("out.mkv", {"codec": "no_such"}, "--codec"),
        ("out.gif", {}, "ends in .mp4"),
        ("nowhere/out.mkv", {}, "beside it"),
    ],
)
def test_what_cannot_be_written_is_known_before_anybody_looks(source, tmp_path, name, options, said):
    def where(_):
        raise AssertionError("looked")

    video = VideoAnonymizer(build(where, ONE_PERSON), ClipOptions(**options))
    with pytest.raises(clips.ClipError, match=said):
        video(source, tmp_path / name, settings=QUICK, key="k")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]


def test_before_and_after_stand_side_by_side(source, tmp_path):
    planned = plan([source], previews=True)
    (result,) = run(planned.jobs, build(lambda _: SOMEBODY, ONE_PERSON), QUICK)
    assert result.ok
    both = tmp_path / "clip_anon_before_after.mp4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv", "clip_anon.mkv", both.name]
    with clips.ClipReader(both) as reader:
        shown = [frame.image for frame in reader]
        assert reader.info.audio_streams == 0
    assert [image.shape for image in shown] == [(64, 192, 3)] * 7
    for half, wanted in ((slice(0, 96), images(source)), (slice(96, 192), images(tmp_path / "clip_anon.mkv"))):
        # Each is nearest to its own frame, of all.
        nearest = [np.argmin([np.abs(i[:, half].astype(int) - w).mean() for w in wanted]) for i in shown]
        assert nearest == list(range(7))


def test_no_preview_is_left_of_a_clip_that_fails(source, tmp_path, monkeypatch):
    monkeypatch.setattr(clips.ClipWriter, "finish", lambda self: 1 / 0)
    video = VideoAnonymizer(build(lambda _: SOMEBODY, ONE_PERSON))
    with pytest.raises(ZeroDivisionError):
        video(source, tmp_path / "out.mkv", settings=QUICK, preview=tmp_path / "both.mp4")
    assert not [path.name for path in tmp_path.iterdir() if path.suffix == ".mp4"]


def told(source, path, *more, keep=lambda row: True):
    """What `deid detect` says of a clip, as somebody edited it."""
    from deid_diffusion.cli import main

    assert main(["detect", str(source), "-o", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*filter(keep, rows), *more]))


def test_boxes_that_somebody_edited_are_followed_through_the_command_line(source, tmp_path, monkeypatch, capsys):
    from deid_diffusion.cli import detect, main
    from deid_diffusion.cli import run as run_command

    other = face(80, 28, 8)
    monkeypatch.setattr(detect, "_detector", lambda name: lambda image: [*SOMEBODY, other])
    monkeypatch.setattr(run_command, "_load", lambda options: build(lambda _: 1 / 0, ONE_PERSON))
    boxes, out, report = tmp_path / "faces.jsonl", tmp_path / "out.mkv", tmp_path / "report.json"
    # One taken out, one added in two frames, where the real detector finds no face.
    added = [{"file": "clip.mkv", "frame": n, "box": [4, 4, 18, 20]} for n in (2, 4)]
    told(source, boxes, *added, keep=lambda row: row.get("track_id") != 1)
    words = ["run", str(source), "-o", str(out), "--boxes", str(boxes), "--report", str(report)]
    words += ["--steps", "1", "--repulsion", "0", "--threshold", "1.01"]
    assert main(words) == 0
    assert "left as they are, for they were taken out of the boxes by hand: 1 of 2 faces" in capsys.readouterr().err
    before, after = images(source), images(out)
    assert all(covered(a, b, SOMEBODY[0]) for a, b in zip(before, after, strict=True))
    assert all(np.array_equal(a[:, 74:], b[:, 74:]) for a, b in zip(before, after, strict=True))
    assert all((a[4:20, 4:18] != b[4:20, 4:18]).any(-1).mean() > 0.9 for a, b in zip(before, after, strict=True))
    faces = {row["track_id"]: row for row in json.loads(report.read_text())["faces"]}
    assert faces[1]["outcome"] == "kept"
    assert faces[1]["reason"].startswith("left as it is by hand")
    assert (faces[2]["outcome"], faces[2]["frames"]["found"]) == ("redacted", 2)


def test_other_boxes_are_other_settings(source, tmp_path):
    (job,) = plan([source]).jobs
    journal, rows = Journal(tmp_path), {0: (Sighting(replace(SOMEBODY[0], track_id=0)),)}
    for boxes, error in ((rows, ""), (rows, ""), ({}, "made with other settings")):
        listed = FaceList("clip.mkv", "", 96, 64, 7, sightings=boxes)
        jobs = [replace(job, listed=listed)]
        (result,) = run(jobs, build(lambda _: 1 / 0), replace(QUICK, method="blank"), journal)
        assert error in result.error
        assert result.ok is not bool(error)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row | {"file": "b.mkv"}, "'b.mkv' is none of the 1 inputs"),
        (lambda row: row | ({"sha256": "0" * 64} if "box" not in row else {}), "sha256 differs"),
        (lambda row: row | ({"start_s": 1.0} if "box" not in row else {}), "--from 1, got the whole clip"),
        (lambda row: row | ({"box": [5, 5, 5, 9]} if "box" in row else {}), "line 2: 96 x 64: wanted x0 y0 x1 y1"),
    ],
)
def test_boxes_that_are_not_of_the_clip_are_refused_before_anything_is_loaded(
    source, tmp_path, monkeypatch, capsys, change, said
):
    from deid_diffusion.cli import detect, main
    from deid_diffusion.cli import run as run_command

    monkeypatch.setattr(detect, "_detector", lambda name: lambda image: SOMEBODY)
    monkeypatch.setattr(run_command, "_load", lambda options: pytest.fail("loaded"))
    boxes = tmp_path / "faces.jsonl"
    told(source, boxes)
    boxes.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in boxes.read_text().splitlines()))
    assert main(["run", str(source), "-o", str(tmp_path / "out.mkv"), "--boxes", str(boxes)]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv", "faces.jsonl"]


def test_boxes_of_other_frames_are_found_out_at_the_end_of_the_first_look(source, tmp_path):
    boxes = tmp_path / "faces.jsonl"
    head = {"file": "clip.mkv", "sha256": "", "width": 96, "height": 64, "frames": 9, "tracks": []}
    boxes.write_text(json.dumps(head))
    video = VideoAnonymizer(build(lambda _: 1 / 0, ONE_PERSON))
    with pytest.raises(ValueError, match="96 x 64 and 9 frames, got 96 x 64 and 7; run `deid detect`"):
        video(source, tmp_path / "out.mkv", settings=QUICK, boxes=boxes, key="k")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv", "faces.jsonl"]
