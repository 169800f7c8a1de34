"""Clips from file to file, and as jobs beside pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.clip_run import ClipOptions, ClipRun
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
