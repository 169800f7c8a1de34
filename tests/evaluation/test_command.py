import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion import cli
from deid_diffusion.evaluation.aggregate import BACKGROUND_PSNR, DETECTED, LANDMARK_ERROR
from deid_diffusion.evaluation.command import EvalOptions, run_eval
from deid_diffusion.evaluation.privacy import ADAPTIVE, OWN_SIMILARITY, RANK_1
from deid_diffusion.evaluation.results import EvaluationError, find_metric
from deid_diffusion.evaluation.summary import comparison_table, headline, markdown_table
from tests.evaluation.conftest import portrait, save


@pytest.fixture
def options(crowd, judge_file, detector, monkeypatch) -> EvalOptions:
    # Drawing takes most of a run's seconds and has its own tests.
    monkeypatch.setattr("deid_diffusion.evaluation.html_report._plots", lambda reports: [])
    return EvalOptions(
        originals=crowd / "originals",
        outputs=(crowd / "copies", crowd / "blank", crowd / "stranger"),
        out=crowd / "eval",
        gallery=crowd / "gallery",
        judges=(f"{judge_file}:64:rgb:arcface:threshold=0.9",),
    )


def _value(report, name: str) -> float | None:
    everything = (*report.judges[0].metrics, *report.recogniser_free, *report.utility, *report.quality)
    return find_metric(everything, name).value


def test_copies_are_recognised_blanks_and_strangers_are_not(options):
    copies, blank, stranger = run_eval(options)
    assert _value(copies, RANK_1) == 1.0
    assert _value(copies, "unchanged faces") == 1.0
    assert find_metric(copies.judges[0].metrics, RANK_1).on_originals == 1.0
    assert find_metric(copies.judges[0].metrics, RANK_1).chance == pytest.approx(1 / 24)
    for report in (blank, stranger):
        assert _value(report, RANK_1) < 0.25
        assert _value(report, "unchanged faces") == 0.0
        assert _value(report, "verified as own original at the judge's threshold") == 0.0
        assert _value(report, BACKGROUND_PSNR) == float("inf")
    assert _value(blank, DETECTED) == 0.0
    assert _value(stranger, DETECTED) == 1.0
    assert _value(blank, LANDMARK_ERROR) is None
    assert _value(stranger, LANDMARK_ERROR) == 0.0
    assert find_metric(stranger.utility, DETECTED).on_originals == 1.0  # in the originals' mirror images
    assert copies.test == "other photos"


def test_what_is_written_is_what_is_returned(options):
    reports = run_eval(options)
    text = (options.out / "eval.json").read_text()
    assert json.loads(text)["methods"] == [json.loads(json.dumps(r.to_json())) for r in reports]
    assert str(options.originals.parent) not in text
    assert [report.method for report in reports] == ["copies", "blank", "stranger"]
    assert "grid sha256" not in text
    assert dict(reports[0].setup)["judge grid"].startswith("sha256 ")


def test_the_table_has_a_row_per_method_and_the_summary_says_who_leaks(options):
    reports = run_eval(options)
    rows = [line for line in markdown_table(reports).splitlines() if line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| copies",
        "| blank",
        "| stranger",
        "| *originals*",
        "| *chance*",
    ]
    assert "24 of 24 faces are unchanged" in " ".join(headline(reports[0]))
    assert "not distinguishable from chance" in headline(reports[1])[0]


def test_without_a_gallery_the_originals_are_searched(options):
    copies, *_ = run_eval(replace(options, gallery=None))
    assert copies.test == "same photo"
    assert _value(copies, RANK_1) == 1.0
    assert any("harsher" in note for note in copies.notes)


def test_the_same_seed_gives_the_same_numbers_and_the_cache_does_not_change_them(options, tmp_path):
    cached = replace(options, cache=tmp_path / "cache.db")
    first, second, third = run_eval(options), run_eval(cached), run_eval(cached)
    assert first == second == third
    assert (tmp_path / "cache.db").stat().st_size > 24 * 192 * 4


def test_no_cache_is_left_anywhere_unless_named(options):
    before = set(options.originals.parent.rglob("*"))
    run_eval(options)
    new = {p.name for p in set(options.originals.parent.rglob("*")) - before}
    assert new == {"eval", "eval.json", "report.html"}


def test_odd_files_are_counted_lines_never_numbers(options):
    folder = options.originals.parent
    (folder / "originals" / "003.png").write_bytes(b"not a picture")
    (folder / "gallery" / "004.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "blank" / "005.png").unlink()
    (folder / "blank" / "006.png").write_bytes(b"")
    save(folder / "blank", "007.png", portrait(7)[:60])
    save(folder / "blank", "008.png", np.zeros((224, 224, 3), np.uint8))
    save(folder / "blank", "zebra.png", portrait(9))
    save(folder / "originals", "010.png", np.full((112, 112, 3), 128, np.uint8))
    _, blank, _ = run_eval(options)
    assert dict(blank.problem_counts) == {
        "original not readable": 1,
        "gallery picture not readable": 1,
        "no output": 1,
        "output not readable": 1,
        "output of another shape": 1,
        "output of another size": 1,
        "output without an original": 1,
        "no face detected in the original": 1,
    }
    assert blank.faces == 24 - 5
    assert (
        find_metric(blank.judges[0].metrics, RANK_1).n == 24 - 5 - 1
    )  # nobody can be matched to the lost gallery photo
    assert "Excluded or irregular files" in " ".join(headline(blank))


def test_one_missed_face_counts_as_exposed(options):
    folder = options.originals.parent
    save(folder / "stranger", "011.png", portrait(11))
    stranger = run_eval(options)[2]
    assert _value(stranger, "unchanged faces") == pytest.approx(1 / 24)
    assert "1 of 24 faces are unchanged" in " ".join(headline(stranger))


def test_one_person_alone_is_no_closed_set(options, tmp_path):
    for kind in ("originals", "gallery", "blank"):
        save(tmp_path / "one" / kind, "000.png", portrait(0))
    one = tmp_path / "one"
    (report,) = run_eval(
        replace(options, originals=one / "originals", outputs=(one / "blank",), gallery=one / "gallery")
    )
    assert "two people" in find_metric(report.judges[0].metrics, RANK_1).reason
    assert _value(report, OWN_SIMILARITY) == pytest.approx(1.0, abs=1e-5)


def test_groups_show_who_pays(options, tmp_path):
    lines = ["person,gender,age"] + [f"{i:03},{'female' if i % 2 else 'male'},{20 + i}" for i in range(24)]
    (tmp_path / "info.csv").write_text("\n".join(lines))
    for person in range(1, 24, 2):  # every woman is missed
        save(options.outputs[2], f"{person:03}.png", portrait(person))
    stranger = run_eval(replace(options, groups=tmp_path / "info.csv"))[2]
    groups = {(g.attribute, g.group): find_metric(g.metrics, f"{RANK_1}, grid").value for g in stranger.groups}
    assert groups["gender", "female"] == 1.0
    assert groups["gender", "male"] < 0.3
    assert {"20 to 27", "28 to 35", "36 to 43"} == {g for a, g in groups if a == "age"}
    assert any(a == "skin tone" for a, _ in groups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": ()}, "at least one folder"),
        ({"person_by": "face"}, "person_by"),
        ({"names": ("a",)}, "one name per folder"),
        ({"names": ("a", "a", "b")}, "different names"),
    ],
)
def test_options_that_cannot_be_are_refused(options, change, message):
    with pytest.raises(EvaluationError, match=message):
        replace(options, **change)


@pytest.mark.parametrize("what", ["missing folder", "empty folder", "no face", "mismatched names"])
def test_folders_that_give_no_number_give_an_error_and_no_file(options, tmp_path, what):
    folder = tmp_path / "odd"
    if what == "empty folder":
        folder.mkdir()
    elif what == "no face":
        save(folder, "000.png", np.full((112, 112, 3), 128, np.uint8))
    elif what == "mismatched names":
        save(folder, "other.png", portrait(0))
    words = {"missing folder": "not a folder", "empty folder": "no picture", "no face": "no face detected"}
    change = {"originals": folder} if what == "no face" else {"outputs": (folder,)}
    with pytest.raises(EvaluationError, match=words.get(what, "Names must match")):
        run_eval(replace(options, **change))
    assert not options.out.exists()


def test_memory_does_not_grow_with_the_number_of_pictures(options, tmp_path):
    def peak(pictures: int) -> int:
        folder = tmp_path / str(pictures)
        for i in range(pictures):
            save(folder / "before", f"{i:03}.png", portrait(i))
            save(folder / "after", f"{i:03}.png", portrait(i + 500))
        tracemalloc.start()
        run_eval(replace(options, originals=folder / "before", outputs=(folder / "after",), gallery=None, examples=0))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(3)
    small, large = peak(6), peak(30)
    # Twenty-four more pairs are 1.8 MB of pixels; rows and embeddings of 192 numbers are a tenth of that.
    assert large - small < 600_000


def test_a_gallery_of_views_is_called_one_and_no_other(options):
    report = run_eval(replace(options, gallery_kind="views"))[0]
    assert report.test == "edited views of the originals, not other photos"
    assert any("upper bounds" in note for note in report.notes)
    with pytest.raises(EvaluationError, match="gallery_kind must be one of photos, views"):
        replace(options, gallery_kind="drawings")


def test_the_comparison_shows_non_adaptive_and_adaptive_attacks_of_each_method(options):
    text = comparison_table(run_eval(options))
    lines = text.splitlines()
    assert lines[0].startswith("Gallery of 24 people: other photos. Judged: 24 faces (copies)")
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in lines if row.startswith("|")}
    assert rows["method"][1:3] == [f"{RANK_1}, grid", f"{ADAPTIVE}, grid"]
    assert rows["copies"][1].startswith("1.00 [")
    assert rows["*chance*"][1:3] == ["0.04", "0.08"]
    assert rows["blank"][-1] == "not measured |"


@pytest.mark.parametrize(("old", "new"), [("--guide", "--id-encoder"), ("--finder", "--detector")])
@pytest.mark.parametrize("command", [["eval", "in", "out"], ["compare", "in"]])
def test_an_old_option_names_the_new_one(command, old, new, capsys):
    for words in ([old, "x"], [f"{old}=x"], [old]):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*command, *words])
        assert f"{old} is now {new}" in capsys.readouterr().err
