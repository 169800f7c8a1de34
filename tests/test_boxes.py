"""Boxes that users bring: what cannot be what it claims to be is refused whole, and no face is exposed by a word."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from deid_diffusion import cli
from deid_diffusion.cli import run as run_command
from deid_diffusion.cli.show import faces_in_words
from deid_diffusion.imaging.pictures import load_picture, picture_size
from deid_diffusion.jobs.run import Job, JobResult

from .fakes import Inverter, photo

WIDE, HIGH = 500, 332
FOUND = ((2, 2, 10, 10),)  # what the stand-in finds in every picture


@pytest.fixture
def painter(monkeypatch) -> Inverter:
    anonymize = Inverter()
    monkeypatch.setattr(run_command, "_load", lambda options: anonymize)
    return anonymize


@pytest.fixture
def folder(tmp_path):
    """A folder with one picture of 500 x 332, g.jpg."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((HIGH, WIDE, 3), 90, np.uint8)).save(tmp_path / "in" / "g.jpg")
    return tmp_path


def run(folder, boxes, *words) -> int:
    return cli.main(["run", *map(str, [folder / "in", "-o", folder / "out", "--boxes", boxes, *words])])


def boxes_given(painter) -> dict[str, tuple | None]:
    """What the anonymizer was told, by the pictures' names; None: to detect."""
    return {call[0]: call[2] for call in painter.calls}


def given(folder, text: str, name: str = "b.json"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refused(folder, painter, capsys, boxes, *words) -> str:
    """The one line of a refusal, after which nothing is written."""
    assert run(folder, boxes, *words) == 2
    assert painter.calls == []
    assert not (folder / "out").exists()
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("b.json", '{"g.jpg": [[281, 160, 340, 235], [10, 20, 60, 80.5]]}', ()),
        ("b.json", '{"./g.jpg": [[281, 160, 340, 235], [10, 20, 60, 80.5]]}', ()),
        ("b.json", '{"g.jpg": [[281, 160, 59, 75], [10, 20, 50, 60.5]]}', ("--boxes-format", "xywh")),
        ("b.csv", "file,x0,y0,x1,y1\ng.jpg,281,160,340,235\n\ng.jpg, 10, 20, 60, 80.5\n", ()),
        ("b.csv", '\ufefffile,x,y,w,h\r\n"g.jpg",281,160,59,75\r\ng.jpg,10,20,50,60.5\r\n', ()),
    ],
)
def test_boxes_replace_detection_where_they_are_given(folder, painter, capsys, name, text, words):
    photo(folder / "in" / "other.png")
    assert run(folder, given(folder, text, name), *words) == 0
    assert [call[2] for call in painter.calls] == [((281, 160, 340, 235), (10, 20, 60, 80.5)), None]
    assert "has no boxes for other.png: their faces are detected" in capsys.readouterr().err


# As the boxes of f04: six faces in a picture of 500 x 332.
@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[0.56, 0.48, 0.68, 0.71], [0.65, 0.13, 0.74, 0.31]], "looks like fractions"),
        ([[281, 160, 340, 235], [0.65, 0.13, 0.74, 0.31]], "looks like fractions"),
        ([[0, 0, 1, 1]], "looks like fractions"),
        ([[281, 160, 283.5, 235]], "at least 4 px"),
        ([[277, 168, 48, 65], [55, 146, 43, 58]], "--boxes-format xywh"),
        ([[40, 30, 120, 150]], "say --boxes-format xyxy or xywh"),
        ([[56, 48, 68, 71], [65, 13, 74, 31]], "say --boxes-format xyxy or xywh"),  # per cent
        ([[560, 480, 680, 710]], "inside the picture"),  # per mille
        ([[400, 100, 510, 300]], "inside the picture"),
        ([[-3, 160, 340, 235]], "inside the picture"),
        ([[340, 235, 281, 160]], "x1 > x0"),
        ([[281, 160, 281, 235]], "x1 > x0"),
        ([["281", "160", "340", "235"]], "four numbers"),
        ([[281, 160, 340]], "four numbers"),
        ([[281, 160, 340, 235, 0.99]], "four numbers"),
        ([[]], "four numbers"),
        ([None], "four numbers"),
        ([[True, True, 340, 235]], "four numbers"),
        ([{"x0": 281, "y0": 160, "x1": 340, "y1": 235}], "four numbers"),
        ([[281, 160, float("nan"), 235]], "four numbers"),
        ([[281, 160, float("inf"), 235]], "four numbers"),
        ([[281, 160, 10**400, 235]], "four numbers"),
        ([281, 160, 340, 235], "four numbers"),
        (None, "a list of boxes"),
        ("281 160 340 235", "a list of boxes"),
        ({"boxes": []}, "a list of boxes"),
    ],
)
def test_what_cannot_be_boxes_in_pixels_is_refused(folder, painter, capsys, boxes, said):
    assert said in refused(folder, painter, capsys, given(folder, json.dumps({"g.jpg": boxes})))


def test_one_bad_box_refuses_the_whole_list(folder, painter, capsys):
    for number in range(5):
        photo(folder / "in" / f"{number}.png", 64)
    boxes = {f"{number}.png": [[40, 40, 60, 60]] for number in range(4)} | {"4.png": [[40, 40, 60, 600]]}
    assert "4.png, 64 x 64: wanted a box inside" in refused(
        folder, painter, capsys, given(folder, json.dumps(boxes)), "--boxes-format", "xyxy"
    )


def test_the_user_can_name_what_could_be_two_things(folder, painter):
    boxes = given(folder, '{"g.jpg": [[40, 30, 120, 150]]}')
    assert run(folder, boxes, "--boxes-format", "xyxy") == 0
    assert run(folder, boxes, "--boxes-format", "xywh", "--overwrite") == 0
    assert [call[2] for call in painter.calls] == [((40, 30, 120, 150),), ((40, 30, 160, 180),)]


@pytest.mark.parametrize(
    ("form", "box"), [("xywh", [281, 160, 340, 235]), ("xyxy", [277, 168, 48, 65]), ("xywh", [9, 9, 0, 5])]
)
def test_a_named_format_must_fit_too(folder, painter, capsys, form, box):
    boxes = given(folder, json.dumps({"g.jpg": [box]}))
    assert "nothing was written" in refused(folder, painter, capsys, boxes, "--boxes-format", form)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("b.json", '{"g.jpg": [[281,160,340,235]], "g.jpg": []}', "'g.jpg' twice"),
        ("b.json", '{"g.jpg": [[281,160,340,235]], "./g.jpg": []}', "'g.jpg' and './g.jpg'"),
        ("b.json", '{"typo.jpg": []}', "'typo.jpg' is none of the 1 pictures"),
        ("b.json", '{"g.jpg": [[281,160,340,235]], "gone.jpg": [[281,160,340,235]]}', "'gone.jpg' is none"),
        ("b.json", "{}", "got an empty list"),
        ("b.json", "[[1, 2, 3, 4]]", "got something else"),
        ("b.json", "null", "got something else"),
        ("b.json", "no json", "got something else"),
        ("b.json", "[" * 100_000, "got something else"),
        ("b.json", '{"files": [], "faces": []}', "got something else"),
        ("b.csv", "", "got something else"),
        ("b.csv", "x,y\n1,2\n", "got something else"),
        ("b.csv", "g.jpg,281,160,340,235\n", "got something else"),
        ("b.csv", "file,x0,y0,x1,y1\n", "a header alone"),
        ("b.csv", "file,x0,x1,y0,y1\ng.jpg,281,340,160,235\n", "got something else"),
        ("b.csv", "file,x0,y0,x1\ng.jpg,281,160,340\n", "got something else"),
        ("b.csv", "file;x0;y0;x1;y1\ng.jpg;281;160;340;235\n", "got something else"),
        ("b.csv", "file,x0,y0,x1,y1\ng.jpg,281,160,340\n", "four numbers"),
        ("b.csv", "file,x0,y0,x1,y1\ng.jpg,281,160,340,235,0.9\n", "four numbers"),
        ("b.csv", "file,x0,y0,x1,y1\ng.jpg,281,160,34_0,235\n", "four numbers"),
        ("b.csv", "file,x0,y0,x1,y1\ng.jpg,281,160,,235\n", "four numbers"),
        ("b.csv", "file,x0,y0,x1,y1\ng.jpg,281,160,inf,235\n", "four numbers"),
        ("b.csv", "file,x0,y0,x1,y1\ng.jpg,0.5,0.2,0.7,0.6\n", "looks like fractions"),
        ("b.csv", "file,x0,y0,x1,y1\n./g.jpg,281,160,340,235\ng.jpg,281,160,340,235\n", "'./g.jpg' and 'g.jpg'"),
    ],
)
def test_what_is_no_list_is_refused(folder, painter, capsys, name, text, said):
    assert said in refused(folder, painter, capsys, given(folder, text, name))


def test_a_csv_says_itself_what_its_numbers_are(folder, painter, capsys):
    boxes = given(folder, "file,x0,y0,x1,y1\ng.jpg,40,30,120,150\n", "b.csv")
    assert "a file with xyxy" in refused(folder, painter, capsys, boxes, "--boxes-format", "xywh")
    assert run(folder, boxes) == 0


def test_two_spellings_of_one_name_are_one_name(folder, painter, capsys):
    composed, split = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    photo(folder / "in" / split, 64)
    boxes = [[40, 40, 60, 60]]
    both = given(folder, json.dumps({composed: boxes, split: []}))
    assert "every name once" in refused(folder, painter, capsys, both)
    assert run(folder, given(folder, json.dumps({composed: boxes}))) == 0
    assert boxes_given(painter) == {"g.jpg": None, split: ((40, 40, 60, 60),)}


def test_a_name_that_two_inputs_have_is_refused(tmp_path, painter, capsys):
    places = [photo(tmp_path / folder / "p.png", 64) for folder in ("one", "two")]
    boxes = given(tmp_path, '{"p.png": [[40, 40, 60, 60]]}')
    assert cli.main(["run", *map(str, places), "--boxes", str(boxes)]) == 2
    assert "could be" in capsys.readouterr().err
    assert painter.calls == []


def test_nobody_says_that_no_face_was_found_where_none_was_looked_for(tmp_path):
    done = [JobResult(Job(tmp_path / "a.png", tmp_path / "b.png", 0, "a.png", boxes=boxes)) for boxes in ((), None)]
    assert faces_in_words(done[:1]) == "no face, as the boxes say"
    assert faces_in_words(done[1:]) == "no face found"


def test_an_empty_list_is_followed_and_said(folder, painter, capsys):
    assert run(folder, given(folder, '{"g.jpg": []}')) == 0
    assert painter.calls[0][2] == ()
    assert "says that no face is in g.jpg" in capsys.readouterr().err


def test_a_picture_turned_by_exif_is_measured_upright(folder, painter, capsys):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.full((HIGH, WIDE, 3), 90, np.uint8)).save(folder / "in" / "g.jpg", exif=turned)
    lying = given(folder, '{"g.jpg": [[400, 200, 480, 320]]}')
    assert "332 x 500: wanted a box inside" in refused(folder, painter, capsys, lying)
    assert run(folder, given(folder, '{"g.jpg": [[200, 400, 320, 480]]}')) == 0


def test_a_picture_that_cannot_be_read_stops_no_batch(folder, painter, capsys):
    (folder / "in" / "bad.jpg").write_text("no picture")
    boxes = given(folder, '{"bad.jpg": [[281, 160, 340, 235]], "g.jpg": [[281, 160, 340, 235]]}')
    assert run(folder, boxes) == 1
    assert "failed: bad.jpg" in capsys.readouterr().err
    # Should it be whole by the time, its faces are detected: the boxes could not be compared with it.
    assert [call[2] for call in painter.calls] == [None, ((281, 160, 340, 235),)]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_from_the_header_is_that_of_the_loaded_picture(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"p{suffix}"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path, exif=exif)
    assert picture_size(path) == load_picture(path).image.shape[1::-1]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_a_heic_is_that_of_the_loaded_picture(tmp_path, orientation):
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif; pip install 'deid-diffusion[heic]'")
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    picture.info["exif"] = exif.tobytes()
    heif.from_pillow(picture).save(tmp_path / "p.heic")
    assert picture_size(tmp_path / "p.heic") == load_picture(tmp_path / "p.heic").image.shape[1::-1]


def test_of_what_is_no_picture_there_is_no_size(tmp_path):
    (tmp_path / "p.png").write_text("no picture")
    assert picture_size(tmp_path / "p.png") is None
    assert picture_size(tmp_path / "nope.png") is None


@pytest.fixture
def reported(folder, painter):
    """A folder of three pictures, bad.jpg among them not yet whole, and the report of a first run."""
    photo(folder / "in" / "p.png", 64)
    (folder / "in" / "bad.jpg").write_bytes((folder / "in" / "g.jpg").read_bytes()[:100])
    report = folder / "report.json"
    words = ["run", folder / "in", "-o", folder / "out1", "--report", report]
    assert cli.main([*map(str, words)]) == 1
    painter.calls.clear()
    return report


def changed(report, change):
    told = json.loads(report.read_text())
    change(told)
    report.write_text(json.dumps(told))
    return report


def test_what_a_report_says_of_failed_files_is_nothing(folder, painter, reported, capsys):
    (folder / "in" / "bad.jpg").write_bytes((folder / "in" / "g.jpg").read_bytes())
    capsys.readouterr()
    assert run(folder, reported) == 0
    assert boxes_given(painter) == {"bad.jpg": None, "g.jpg": FOUND, "p.png": FOUND}
    assert "no boxes for bad.jpg" in capsys.readouterr().err


def test_no_face_in_a_report_is_no_promise(folder, painter, reported):
    def empty(told):
        told["files"][1]["faces"] = 0
        told["faces"] = told["faces"][1:]

    assert run(folder, changed(reported, empty)) == 1
    assert boxes_given(painter) == {"bad.jpg": None, "g.jpg": None, "p.png": FOUND}


def test_who_was_kept_is_a_face_like_the_others(folder, painter, reported):
    assert run(folder, changed(reported, lambda told: told["faces"][0].update(outcome="kept"))) == 1
    assert boxes_given(painter)["g.jpg"] == FOUND


def test_a_face_at_the_border_that_was_found_is_grown_to_what_a_box_must_be(folder, painter, reported):
    assert run(folder, changed(reported, lambda told: told["faces"][0].update(box=[499, 100, 500, 140]))) == 1
    assert boxes_given(painter)["g.jpg"] == ((496, 100, 500, 140),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.update(complete=False), "one that was stopped"),
        (lambda told: told.pop("complete"), "got something else"),
        (lambda told: told["files"][1].pop("sha256"), "without"),
        (lambda told: told["files"][1].update(sha256="0" * 64), "sha256 differs"),
        (lambda told: told["files"][1].update(file="other.jpg"), "as many faces"),
        (lambda told: told["faces"].pop(), "as many faces"),
        (lambda told: told["files"].append(told["files"][1]), "got one twice"),
        (lambda told: told["faces"][0].update(box=[0.1, 0.1, 0.2, 0.3]), "looks like fractions"),
        (lambda told: told["faces"][0].update(box=None), "four numbers"),
        (lambda told: told["faces"][0].update(file="bad.jpg"), "as many faces"),
    ],
)
def test_a_report_that_does_not_hold_is_refused(folder, painter, reported, capsys, change, said):
    capsys.readouterr()
    assert said in refused(folder, painter, capsys, changed(reported, change))


def test_a_report_of_other_pictures_is_refused(folder, painter, reported, capsys):
    Image.fromarray(np.full((HIGH, WIDE, 3), 91, np.uint8)).save(folder / "in" / "g.jpg")
    capsys.readouterr()
    assert "another g.jpg (its sha256 differs)" in refused(folder, painter, capsys, reported)


def test_a_picture_that_is_changed_in_mid_batch_fails(folder, painter, reported, monkeypatch, capsys):
    def load(options):
        Image.fromarray(np.full((HIGH, WIDE, 3), 91, np.uint8)).save(folder / "in" / "g.jpg")
        return painter

    monkeypatch.setattr(run_command, "_load", load)
    assert run(folder, reported) == 1
    assert "g.jpg: was changed since its boxes were read" in capsys.readouterr().err
    assert not (folder / "out" / "g.jpg").exists()


def test_a_run_that_went_on_reports_what_identifies_its_pictures(folder, painter):
    photo(folder / "in" / "p.png", 64)
    painter.stop_at, painter.error = 1, KeyboardInterrupt()
    words = [str(word) for word in ("run", folder / "in", "-o", folder / "out1", "--report", folder / "report.json")]
    assert cli.main(words) == 130
    assert run(folder, folder / "report.json") == 2
    painter.stop_at = None
    assert cli.main(words) == 0
    painter.calls.clear()
    assert run(folder, folder / "report.json") == 0
    assert boxes_given(painter) == {"g.jpg": FOUND, "p.png": FOUND}
