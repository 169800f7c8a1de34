"""Two folders in, the report out; without names that are the same in both, a sentence that says so."""

import json
from pathlib import Path

import pytest
from PIL import Image

from .conftest import WAIT_MS

pytest.importorskip("dlib", reason="needs dlib; pip install 'deid-diffusion[eval]'")
MADE = Path(__file__).parents[2] / "docs" / "before_after.png"  # two people whom the model made


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    with Image.open(MADE) as picture:
        sides = [picture.convert("RGB").crop((x, 0, x + 450, 450)).resize((300, 300)) for x in (0, 470)]
    for kind, order in (("originals", sides), ("outputs", sides[::-1])):
        (tmp_path / kind).mkdir()
        for name, side in zip(("one", "two"), order, strict=True):
            side.save(tmp_path / kind / f"{name}.png")
    (tmp_path / "outputs" / "notes.txt").write_text("no picture")
    return tmp_path / "originals", tmp_path / "outputs"


def test_two_folders_are_judged(visitor, folders, tmp_path, monkeypatch):
    # Drawing takes most of a run's seconds and has its own tests.
    monkeypatch.setattr("deid_diffusion.evaluation.html_report._plots", lambda reports: [])
    page = visitor(viewport={"width": 800, "height": 700})
    page.click("#tab-evaluation")
    judge = page.get_by_role("button", name="Judge them")
    other = tmp_path / "other"
    other.mkdir()
    (folders[0] / "one.png").rename(other / "elsewhere.png")
    page.set_input_files("#folder-originals", other)
    assert judge.is_disabled()
    page.set_input_files("#folder-outputs", folders[1])
    page.get_by_text("2 pictures, 1 other files left out").wait_for()
    judge.click()
    page.locator("#evaluation .failure").wait_for()
    said = page.locator("#evaluation .failure").inner_text()
    assert "2 output without an original" in said
    assert "/tmp" not in said

    (other / "elsewhere.png").rename(folders[0] / "one.png")
    page.set_input_files("#folder-originals", folders[0])
    judge.click()
    page.get_by_role("heading", name="2 people, 2 pictures").wait_for()
    page.frame_locator("#evaluation iframe").get_by_role("heading", name="Re-identification").first.wait_for()
    with page.expect_download(timeout=WAIT_MS) as download:
        page.get_by_role("button", name="Save the numbers").click()
    assert len(json.loads(Path(download.value.path()).read_text())["methods"]) == 1
