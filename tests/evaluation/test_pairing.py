from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.evaluation.pairing import extra_outputs, list_pictures, output_of, person_of, read_picture
from deid_diffusion.evaluation.results import EvaluationError


def _write(path: Path, mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (20, 10), 200 if mode in ("L", "I;16") else None).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16", "CMYK"])
def test_every_kind_of_picture_is_rgb_bytes(tmp_path, mode):
    path = _write(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode)
    assert read_picture(path).pixels.shape == (10, 20, 3)
    assert read_picture(path).pixels.dtype == np.uint8


def test_a_turned_picture_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    assert read_picture(_write(tmp_path / "a.jpg", exif=exif)).pixels.shape == (20, 10, 3)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_corrupt_file_names_itself(tmp_path, data):
    (tmp_path / "broken.png").write_bytes(data)
    with pytest.raises(EvaluationError, match=r"broken\.png"):
        read_picture(tmp_path / "broken.png")


def test_a_picture_cut_short_names_itself(tmp_path):
    path = tmp_path / "short.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(EvaluationError, match=r"short\.png"):
        read_picture(path)


def test_outputs_are_found_by_name_ending_and_suffix(tmp_path):
    for name in ("trip/1.JPG", "2.png", "3.png"):
        _write(tmp_path / "in" / name)
    for name in ("trip/1.png", "2_anon.png", "zebra.png"):
        _write(tmp_path / "out" / name)
    (tmp_path / "out" / "notes.txt").write_text("no picture")
    originals, outputs = list_pictures(tmp_path / "in"), list_pictures(tmp_path / "out")
    assert list(originals) == ["2", "3", "trip/1"]
    assert output_of("trip/1", outputs).name == "1.png"
    assert output_of("2", outputs).name == "2_anon.png"
    assert output_of("3", outputs) is None
    assert list(extra_outputs(originals, outputs)) == ["zebra.png"]


def test_two_files_of_one_name_are_refused(tmp_path):
    _write(tmp_path / "1.png")
    _write(tmp_path / "1.jpg")
    with pytest.raises(EvaluationError, match="rename one"):
        list_pictures(tmp_path)


@pytest.mark.parametrize(
    ("key", "by", "person"), [("001", "stem", "001"), ("a/001", "stem", "001"), ("x/ann/2", "folder", "ann")]
)
def test_who_a_picture_shows(key, by, person):
    assert person_of(key, by) == person


def test_a_picture_outside_of_folders_shows_nobody():
    with pytest.raises(EvaluationError, match="no folder"):
        person_of("001", "folder")
