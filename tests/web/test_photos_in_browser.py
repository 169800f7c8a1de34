"""A visitor's way through the photos tab, in a real browser, with the shipped model."""

import io
import json
import os
import struct
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from deid_diffusion.imaging.pictures import PictureError, load_picture

from .conftest import WAIT_MS

CHECKOUT = Path(__file__).parents[2]
DOWNLOAD = "#photos .bar .primary:enabled"


@pytest.fixture(scope="module")
def two_people() -> np.ndarray:
    """(225, 460, 3) uint8 RGB: two faces that the model made, side by side."""
    with Image.open(CHECKOUT / "docs" / "before_after.png") as picture:
        return np.asarray(picture.convert("RGB").resize((460, 225), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def photo(two_people, tmp_path_factory) -> Path:
    """A PNG that says in its metadata who and where."""
    path, text, exif = tmp_path_factory.mktemp("photo") / "Anna & Bo.png", PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("Comment", "Anna, at home")
    exif[0x010E] = "Anna, at home"
    Image.fromarray(two_people).save(path, pnginfo=text, exif=exif)
    return path


@pytest.fixture(scope="module")
def small(two_people, tmp_path_factory) -> Path:
    """One of the two people, in a picture that is quickly looked at."""
    path = tmp_path_factory.mktemp("small") / "small.png"
    Image.fromarray(two_people[:, :225]).resize((150, 150), Image.Resampling.LANCZOS).save(path)
    return path


def bring(page, path: Path) -> None:
    page.set_input_files("#first-photos", path)
    page.wait_for_selector(DOWNLOAD)


def saved(page, button: str) -> bytes:
    with page.expect_download(timeout=WAIT_MS) as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def chunks(data: bytes) -> list[bytes]:
    """Names of a PNG's chunks."""
    at, found = 8, []
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        found.append(data[at + 4 : at + 8])
        at += 12 + size
    assert at == len(data)
    return found


def test_one_way_through(visitor, photo, two_people, outside):
    """Changes a face, keeps another, draws a box, moves a slider, downloads; then the file is looked at."""
    page = visitor(viewport={"width": 1280, "height": 900})
    bring(page, photo)
    assert page.locator("#photos .box").count() == 2
    faces = page.locator(".face")
    first, second = (page.locator("#photos .box").nth(place).bounding_box()["x"] for place in range(2))
    left = 0 if first < second else 1
    one, other = faces.nth(left), faces.nth(1 - left)
    other.locator(".face-head").click()
    other.get_by_text("Keep", exact=True).click()
    page.wait_for_selector("text=Kept as it is")

    # Another face out of several, then the same somebody, older.
    one.locator(".face-head").click()
    before = one.locator(".face-head img").nth(1).get_attribute("src")
    one.get_by_text("Other faces").click()
    one.locator(".choice").nth(3).wait_for()
    one.locator(".choice").nth(2).click()
    page.wait_for_selector(".choice:nth-child(3)[aria-pressed=true]")
    page.wait_for_selector(DOWNLOAD)
    chosen = one.locator(".face-head img").nth(1).get_attribute("src")
    assert chosen != before
    slider = one.get_by_label("Age", exact=True)
    slider.focus()
    slider.press("End")
    one.get_by_text("As in the photo").wait_for()
    page.wait_for_selector(DOWNLOAD)
    assert one.locator(".face-head img").nth(1).get_attribute("src") != chosen

    # A box where there is no face: it is hidden, not painted.
    page.click("#photos >> text=Add a face")
    area = page.locator("#photos .canvas").bounding_box()
    corner = [area["x"] + 0.85 * area["width"], area["y"] + 0.02 * area["height"]]
    page.mouse.move(*corner)
    page.mouse.down()
    page.mouse.move(corner[0] + 0.1 * area["width"], corner[1] + 0.2 * area["height"], steps=3)
    page.mouse.up()
    page.click("#photos >> text=Add this box")
    page.wait_for_selector(".box >> nth=2")
    page.get_by_text("no face was found in this box").wait_for()
    page.wait_for_selector(DOWNLOAD)

    data = saved(page, DOWNLOAD)
    assert set(chunks(data)) <= {b"IHDR", b"IDAT", b"IEND"}
    assert b"Anna" not in data
    out = np.asarray(Image.open(io.BytesIO(data)))
    assert out.shape == two_people.shape
    changed = (out != two_people).any(2)
    assert changed[30:145, 70:155].mean() > 0.5  # the left one's face
    assert not changed[:, 230:380].any()  # the right one, who is kept: to the pixel
    assert changed[5:49, 392:436].all()
    assert (out[10:40, 400:430] == 128).all()  # blank
    changed[:150, 45:175] = changed[:60, 380:] = False
    assert not changed.any()

    report = json.loads(saved(page, "#photos >> text=Save the report"))
    assert sorted(face["outcome"] for face in report["faces"]) == ["kept", "redacted", "replaced"]
    assert report["files"][0]["file"] == "Anna _ Bo.png"
    assert "seed" not in report["files"][0]
    assert "/tmp" not in json.dumps(report)
    assert outside == []


def test_what_the_command_line_refuses_is_refused_in_the_same_words(visitor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.jpg").write_text("not a picture")
    Image.new("1", (10000, 8000)).save("large.png")
    page = visitor()
    page.set_input_files("#first-photos", ["notes.jpg", "large.png"])
    for name, limit in (("notes.jpg", {}), ("large.png", {"max_pixels": 50_000_000})):
        page.locator(".thumb", has_text=name).click()
        with pytest.raises(PictureError) as refused:
            load_picture(name, **limit)
        page.locator("#photos .stage-failed").get_by_text(str(refused.value), exact=True).wait_for()
    assert page.locator("#photos .bar .primary").is_disabled()


def test_a_file_above_the_limit_is_not_sent(visitor, tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(21_000_000)
    page = visitor()
    page.set_input_files("#first-photos", path)
    page.get_by_text("huge.jpg: wanted at most 20 MB, got 21 MB").wait_for()


def test_nobody_sees_the_pictures_of_others(visitor, small):
    """Two people at once: neither the page nor the addresses of one show what is another's."""
    one, other = visitor(), visitor()
    addresses = []
    one.on("request", lambda request: addresses.append((request.url, dict(request.headers))))
    bring(one, small)
    pictures = [(url, headers) for url, headers in addresses if "/api/photos/" in url]
    assert pictures
    assert other.locator("#photos .empty").is_visible()
    secret = other.evaluate("() => sessionStorage.getItem('deid-visit')")
    for url, headers in pictures:
        mine, theirs = {"x-deid-visit": headers["x-deid-visit"]}, {"x-deid-visit": secret}
        assert one.request.get(url, headers=mine).status == 200
        assert other.request.get(url, headers=theirs).status == 404
        assert other.request.get(url).status == 404
        assert headers["x-deid-visit"] not in url
    number = pictures[0][0].split("/")[-2]
    said = other.evaluate(
        """async ([number]) => {
            const net = await import("/pages/net.js");
            try { await net.work("finish", { ids: [number] }); return "done"; } catch (error) { return error.message; }
        }""",
        [number],
    )
    assert said.startswith("wanted something that is still open")


def test_a_lost_connection_is_said_and_what_was_asked_is_done_once_it_is_back(visitor, small):
    page = visitor()
    bring(page, small)
    page.context.set_offline(True)
    page.locator(".face").first.get_by_text("Blur", exact=True).click()
    page.get_by_text("The connection to deid is gone").wait_for()
    page.context.set_offline(False)
    page.click("#lost button")
    page.locator("#lost").wait_for(state="hidden")
    page.wait_for_selector(DOWNLOAD)
    page.locator(".face").first.get_by_text("Hidden").wait_for()


def test_keys_alone_will_do_and_several_photos_come_as_a_zip(visitor, photo, tmp_path, two_people):
    plain = tmp_path / "sky.jpg"
    Image.new("RGB", (320, 200), (90, 140, 220)).save(plain)
    page = visitor(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.set_input_files("#first-photos", [plain, photo])
    page.locator("#photos h2", has_text="No face was found").wait_for()
    page.locator(".thumb", has_text="Anna").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(DOWNLOAD)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for face in range(2):
        page.locator(".face-head").nth(face).focus()
        page.keyboard.press("Enter")
        page.locator(".face").nth(face).locator("input[value=keep]").focus()
        page.keyboard.press("Space")
        page.locator(".face").nth(face).get_by_text("Kept as it is").wait_for()
        page.wait_for_selector(DOWNLOAD)
    page.locator("#photos").get_by_role("button", name="Add a face").focus()
    page.keyboard.press("Enter")
    for key in ("ArrowLeft", "Shift+ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector(".box >> nth=2")
    page.wait_for_selector(DOWNLOAD)
    with zipfile.ZipFile(io.BytesIO(saved(page, "text=Download all (zip)"))) as archive:
        assert sorted(archive.namelist()) == ["Anna _ Bo_anon.png", "report.json", "sky_anon.jpg"]
        out = np.asarray(Image.open(io.BytesIO(archive.read("Anna _ Bo_anon.png"))))
    changed = (out != two_people).any(2)
    rows, columns = np.nonzero(changed)
    # The box in the middle, a step to the left and one wider, and the margin that every redaction has.
    assert rows.min() > 225 * 0.28
    assert rows.max() < 225 * 0.72
    assert columns.min() > 460 * 0.38
    assert columns.max() < 460 * 0.62


def test_what_was_brought_goes_when_the_page_is_closed(visitor, small):
    page = visitor()
    bring(page, small)
    folders = lambda: [path for path in Path(tempfile.gettempdir()).glob(f"deid-web-{os.getpid()}-*/*/*/small*")]  # noqa: E731
    mine = folders()
    assert mine
    page.reload()
    page.wait_for_selector("#first-photos", state="attached")
    page.close()
    until = time.monotonic() + 60
    while set(mine) & set(folders()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not set(mine) & set(folders())
