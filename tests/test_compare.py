"""`deid compare`: runs what is missing, leaves what is done, and judges all of it."""

import json
import os
import shutil

import pytest

from deid_diffusion import cli
from deid_diffusion.cli import compare
from deid_diffusion.cli import run as run_command
from deid_diffusion.evaluation.results import EvalReport

from .fakes import Inverter, photo

HASHES = {"unet/a": "1", "id_encoder/b": "2", "face_estimator/c": "3"}


class Hashed(Inverter):
    def versions(self):
        return {"deid_diffusion": "0", "weights": dict(HASHES)}

    def check(self, settings):
        pass


@pytest.fixture
def painter(monkeypatch) -> Inverter:
    anonymize = Hashed()
    monkeypatch.setattr(run_command, "_load", lambda options: anonymize)
    monkeypatch.setattr(
        compare, "_present", lambda method: {n: v for n, v in HASHES.items() if compare._counts(method, n)}
    )
    return anonymize


@pytest.fixture
def judged(monkeypatch) -> list[dict]:
    asked = []

    def judge(options):
        asked.append(dict(options))
        return tuple(EvalReport(name, "other photos", 1, 1, 1, (), (), (), ()) for name in options["names"])

    monkeypatch.setattr(compare, "eval_reports", judge)
    monkeypatch.setattr("deid_diffusion.evaluation.summary.comparison_table", lambda reports: f"{len(reports)} rows\n")
    return asked


@pytest.fixture
def originals(tmp_path):
    for name in ("a.png", "b.png"):
        photo(tmp_path / "in" / name)
    return tmp_path / "in"


def run(originals, *words) -> int:
    out = originals.parent / "cmp"
    return cli.main(["compare", str(originals), "-o", str(out), "--method", "inpaint", "--method", "blur", *words])


def test_every_method_gets_a_folder_and_the_judges_get_them_all(originals, painter, judged, capsys):
    assert run(originals, "--judge", "dlib", "--gallery", "other") == 0
    out = originals.parent / "cmp"
    assert sorted(path.name for path in out.iterdir()) == ["blur", "blur.json", "inpaint", "inpaint.json", "table.md"]
    assert (out / "table.md").read_text() == "2 rows\n"
    assert judged[0]["outputs"] == [out / "inpaint", out / "blur"]
    assert (judged[0]["names"], judged[0]["judges"]) == (["inpaint", "blur"], ["dlib"])
    assert "2 rows" in capsys.readouterr().out


def test_with_a_gallery_every_method_has_a_parrot_of_another_seed_and_all_share_a_floor(
    originals, painter, judged, monkeypatch
):
    photo(originals.parent / "gallery" / "a.png")
    monkeypatch.setattr(compare, "make_floor", lambda options: options.update(floor=options["out"] / "floor"))
    words, out = ("--gallery", str(originals.parent / "gallery")), originals.parent / "cmp"
    assert run(originals, *words) == 0
    assert judged[0]["parrots"] == [out / "parrots/inpaint", out / "parrots/blur"]
    assert judged[0]["floor"] == out / "floor"
    assert (out / "parrots/blur/a.png").exists()
    own, _, _, _, parrot, _ = [seed for _, seed, *_ in painter.calls]
    assert own != parrot
    assert run(originals, *words, "--no-attackers") == 0
    assert not judged[1].keys() & {"parrots", "floor"}


def test_what_is_done_is_left_and_other_weights_only_undo_what_they_made(originals, painter, judged, monkeypatch):
    run(originals)
    assert len(painter.calls) == 4
    run(originals)
    assert len(painter.calls) == 4
    monkeypatch.setitem(HASHES, "unet/a", "new")
    assert run(originals) == 0
    assert len(painter.calls) == 6
    report = json.loads((originals.parent / "cmp" / "inpaint.json").read_text())
    assert report["versions"]["weights"]["unet/a"] == "new"


def test_an_interrupted_comparison_goes_on(originals, painter, judged):
    painter.stop_at, painter.error = 1, KeyboardInterrupt()
    assert run(originals) == 130
    assert not judged
    painter.stop_at = None
    assert run(originals) == 0
    assert [name for name, *_ in painter.calls] == ["a.png", "b.png", "a.png", "b.png"]


def test_a_new_picture_is_added_and_a_new_seed_makes_all_anew(originals, painter, judged):
    run(originals)
    photo(originals / "c.png")
    assert run(originals) == 0
    assert len(painter.calls) == 6
    assert run(originals, "--seed", "3") == 0
    assert len(painter.calls) == 12


@pytest.mark.parametrize(
    ("method", "change", "state"),
    [
        ("k-same", {}, "done"),
        ("k-same", {"settings": {"k": 3}}, "anew, with other settings than before"),
        ("inpaint", {"settings": {"steps": 3}}, "anew, with other settings than before"),
        ("inpaint", {"seed": 1}, "anew, with other settings than before"),
        ("k-same", {"files": []}, "anew, the pictures have changed"),
        ("blur", {"files": []}, "go on"),
        ("blur", {"settings": {"k": 3}}, "done"),
        ("blur", {"complete": False}, "go on"),
        ("blur", {"complete": False, "settings": {}}, "anew, with other settings than before"),
        ("blur", {"versions": {}}, "anew, its report cannot be read"),
        ("inpaint", {"versions": {"weights": {"unet/a": "0"}}}, "anew, the weights have changed"),
    ],
)
def test_the_last_report_says_what_is_to_be_done(originals, painter, tmp_path, method, change, state):
    files = [{"file": name} for name in os.listdir(originals)]
    versions = {"weights": dict(HASHES)}
    given = {"seed": 0} | ({"k": 5} if method == "k-same" else {})
    settings = compare._expected_settings(method, given) | {"cohort": "2 people in 1 groups, 123", "max_pixels": 7}
    report = {"settings": settings, "seed": 0, "files": files, "complete": True, "versions": versions} | change
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    shutil.copytree(originals, tmp_path / "report")
    assert compare.run_state(path, method, originals, given) == state


def test_outputs_that_somebody_deleted_are_made_again(originals, painter, judged):
    run(originals)
    out = originals.parent / "cmp"
    (out / "inpaint" / "a.png").unlink()
    shutil.rmtree(out / "blur")
    assert run(originals) == 0
    assert len(painter.calls) == 4 + 1 + 2
    assert all((out / method / name).exists() for method in ("inpaint", "blur") for name in ("a.png", "b.png"))


def test_outputs_among_the_originals_are_refused(originals, painter, capsys):
    assert cli.main(["compare", str(originals), "-o", str(originals / "cmp")]) == 2
    assert "outside of the originals" in capsys.readouterr().err


def test_the_shipped_weights_are_named_as_a_report_names_them(weights):
    assert {name.split("/")[0] for name in compare._present("k-same")} == {
        "id_encoder",
        "face_estimator",
        "thresholds.json",
    }
    assert compare._present("blank") == {}
    assert any(name.startswith("unet/") for name in compare._present("inpaint"))
