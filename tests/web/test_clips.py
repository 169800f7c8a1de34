"""Clips on the page: looked through, a box followed, a track kept, made and played."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deid_diffusion.faces.face_list_reader import read_face_lists
from deid_diffusion.types import Redaction
from deid_diffusion.web.clips import Clip
from deid_diffusion.web.desk import Desk
from deid_diffusion.web.follow import follow, small_grey
from deid_diffusion.web.sessions import CancelledError, Limits, Sessions

from .conftest import WAIT_MS

av = pytest.importorskip("av", reason="needs PyAV; pip install 'deid-diffusion[video]'")
clips = pytest.importorskip("deid_diffusion.imaging.clips")
CHECKOUT = Path(__file__).parents[2]
FRAMES, STEP = 13, 4


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """(184, 240, 3) uint8 each: a picture of a generated face that moves to the left, with a textured wall."""
    with Image.open(CHECKOUT / "docs" / "before_after.png") as picture:
        face = np.asarray(picture.convert("RGB").crop((0, 0, 450, 450)).resize((184, 184), Image.Resampling.LANCZOS))
    wall = np.random.default_rng(3).integers(0, 255, (23, 25, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    wide = np.concatenate([face, cv2.GaussianBlur(wall, (0, 0), 1.5)[:184]], axis=1)
    return [np.ascontiguousarray(wide[:, STEP * n : STEP * n + 240]) for n in range(FRAMES)]


@pytest.fixture(scope="module")
def source(frames, tmp_path_factory) -> Path:
    """Lossless, at 10 frames a second."""
    path = tmp_path_factory.mktemp("clip") / "walk.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 240, 184, "yuv444p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv444p")))
        container.mux(stream.encode(None))
    return path


def write(folder: Path, text: str) -> str:
    (folder / "faces.jsonl").write_text(text)
    return "faces.jsonl"


def images(path: Path) -> list[np.ndarray]:
    with clips.ClipReader(path) as reader:
        return [frame.image for frame in reader]


def test_a_box_is_followed_both_ways_and_ends_where_it_is_lost(frames):
    grey = [small_grey(image) for image in frames]
    box = np.array([60, 40, 120, 110]) / [240, 184, 240, 184]
    boxes = follow(grey, box)
    assert len(boxes) == FRAMES
    moved = np.array(boxes)[:, 0] * 240
    assert np.abs(moved - (60 - STEP * np.arange(FRAMES))).max() < 2
    assert np.abs(np.array(follow(grey[::-1], box))[:, 0] * 240 - (60 + STEP * np.arange(FRAMES))).max() < 2
    noise = np.random.default_rng(0).integers(0, 255, grey[0].shape, dtype=np.uint8)
    assert len(follow([*grey[:3], noise, *grey[3:]], box)) == 3


def test_what_is_looked_through_can_be_stopped(source, anonymizer, tmp_path):
    sessions = Sessions(Limits())
    try:
        desk, session = Desk(lambda: anonymizer, sessions), sessions.open()
        session.stop("first")  # while it still waits
        assert desk.do(session.secret, "clip.look", {"id": "one", "job": "first"}) == {"error": "cancelled"}
        folder = session.folder / "one"
        folder.mkdir()
        (folder / "walk.mkv").write_bytes(source.read_bytes())
        session.items["one"] = clip = Clip(folder / "walk.mkv")
        told = []

        def tell(share: float, text: str) -> None:
            told.append(share)
            if len(told) == 4:
                session.stop("second")
            type(session).tell(session, share, text)

        session.job = "second"
        with pytest.raises(CancelledError):
            clip.look(anonymizer, 10**6, tell)
        assert len(told) == 4
        said = desk.do(session.secret, "clip.decide", {"id": "one", "track": 0, "decision": "keep"})["error"]
        assert said.startswith("wanted a clip that was looked through")
        assert desk.do(session.secret, "clip.look", {"id": "two"})["error"].startswith("wanted something")
        assert desk.do("nobody", "clip.look", {"id": "one"})["error"].startswith("wanted an open page")
        assert desk.do(session.secret, "__init__", {})["error"].startswith("wanted something that this page can do")
    finally:
        sessions.close()


def test_one_way_through(visitor, source, tmp_path):
    """A box is drawn, followed and pixelated, the face is kept, and what comes out is looked at."""
    page = visitor(viewport={"width": 1280, "height": 900})
    page.click("#tab-clips")
    page.set_input_files("#clip-file", source)
    make = page.get_by_role("button", name="Make the clip")
    page.locator(".lane").first.wait_for()
    page.locator("#clips .bar button:has-text('Make the clip'):enabled").wait_for()
    assert page.locator(".lane").count() == 1
    assert page.evaluate("() => [...document.querySelectorAll('.film img')].every((one) => one.naturalWidth > 0)")

    page.locator("#clips").get_by_role("button", name="Add a face").click()
    area = page.locator("#clips .canvas").bounding_box()
    start = area["x"] + 0.8 * area["width"], area["y"] + 0.3 * area["height"]
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 0.15 * area["width"], start[1] + 0.25 * area["height"], steps=3)
    page.mouse.up()
    page.locator("#clips").get_by_role("button", name="Add this box").click()
    page.locator(".lane", has_text="drawn").wait_for()
    ready = page.locator("#clips .bar button:has-text('Make the clip'):enabled")
    ready.wait_for()
    page.locator(".lane", has_text="drawn").get_by_text("Pixelate", exact=True).click()
    ready.wait_for()
    page.locator(".lane").first.get_by_text("Keep", exact=True).click()
    page.locator(".lane.kept").wait_for()
    ready.wait_for()

    page.locator("#clips .panel summary").click()
    with page.expect_download(timeout=WAIT_MS) as download:
        page.locator("#clips").get_by_role("button", name="Save", exact=True).click()
    written = Path(download.value.path()).read_text()
    listed = read_face_lists(download.value.path())["walk.mkv"]
    drawn = {frame: row for frame, row in listed.sightings.items() if row}
    assert sorted(drawn) == list(range(FRAMES))  # followed to the end
    assert [track.track_id for track in listed.removed] == [0]  # the face, which is kept
    assert listed.redact_with == {1: Redaction.PIXELATE}

    # The same file again, after somebody edited it: what it says counts.
    page.set_input_files("#faces-list", tmp_path / write(tmp_path, written.replace('"pixelate"', '"blank"')))
    page.locator(".lane input[value=blank]:checked").wait_for(state="attached")
    ready.wait_for()
    page.set_input_files("#faces-list", tmp_path / write(tmp_path, written.replace('"pixelate"', '"melt"')))
    page.get_by_text("redact_with must be one of blank, blur, pixelate").wait_for()
    page.set_input_files("#faces-list", tmp_path / write(tmp_path, written))
    page.locator(".lane input[value=pixelate]:checked").wait_for(state="attached")
    ready.wait_for()
    assert page.locator(".lane").count() == 2
    assert page.locator(".lane.kept").count() == 1

    make.click()
    page.get_by_text("The clip is done").first.wait_for()
    page.get_by_text("This browser cannot play this kind of clip").wait_for()
    with page.expect_download(timeout=WAIT_MS) as download:
        page.locator("#clips").get_by_role("button", name="Download").click()
    out = tmp_path / "out.mkv"
    download.value.save_as(out)
    assert download.value.suggested_filename == "walk_anon.mkv"
    for number, (before, after) in enumerate(zip(images(source), images(out), strict=True)):
        changed = (before != after).any(2)
        left = 0.8 * 240 - STEP * number
        assert changed[60:100, round(left) + 4 : round(left) + 32].mean() > 0.8, number
        assert not changed[:, : max(round(left) - 24, 0)].any(), number
    with page.expect_download(timeout=WAIT_MS) as download:
        page.locator("#clips").get_by_role("button", name="Save the report").click()
    report = json.loads(Path(download.value.path()).read_text())
    assert sorted(face["outcome"] for face in report["faces"]) == ["kept", "redacted"]


def test_a_clip_is_stopped_begun_again_and_played_beside_its_source(visitor, frames, tmp_path):
    """A clip as browsers play it, long enough to be stopped."""
    path = tmp_path / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 240, 184, "yuv420p"
        for image in [*frames, *frames[::-1]] * 4:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    page = visitor(viewport={"width": 800, "height": 600})
    page.click("#tab-clips")
    page.set_input_files("#clip-file", path)
    ready = page.locator("#clips .bar button:has-text('Make the clip'):enabled")
    page.locator("#clips .going button").click()
    page.locator("#clips .empty").wait_for()  # stopped
    page.set_input_files("#clip-file", path)
    ready.wait_for()
    page.locator("#clips .panel summary").click()
    page.locator("#clip-settings").get_by_text("Blank", exact=True).click()
    assert page.locator(".lane input[value=blank]").is_checked()
    ready.click()
    page.locator("#clips .going button").click()
    ready.wait_for()  # stopped, and everything is as it was
    assert page.locator(".players").is_hidden()
    ready.click()
    both = page.locator(".players video")
    both.nth(1).wait_for()
    times = "() => [...document.querySelectorAll('video')].map((one) => one.currentTime)"
    assert page.evaluate(times) == [0, 0]
    page.get_by_role("button", name="Play both").click()
    while min(page.evaluate(times)) < 0.3:
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Pause").click()
    before, after = page.evaluate(times)
    assert abs(before - after) < 0.25
    page.get_by_role("button", name="Back to the faces").click()
    page.locator(".lane").first.wait_for()


def test_what_is_no_clip_is_refused_as_by_the_command_line(visitor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.mp4").write_text("not a clip")
    with pytest.raises(clips.ClipError) as refused:
        clips.ClipReader("notes.mp4")
    page = visitor()
    page.click("#tab-clips")
    page.set_input_files("#clip-file", "notes.mp4")
    page.locator("#clips").get_by_text(str(refused.value), exact=True).wait_for()
