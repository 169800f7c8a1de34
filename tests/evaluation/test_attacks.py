"""Parrot, pooled attackers and the floor, on people who are patterns."""

import numpy as np
import pytest

from deid_diffusion import cli
from deid_diffusion.cli import eval as eval_command
from deid_diffusion.evaluation.attacks import (
    PARROT_1,
    POOLED,
    POOLED_PARROT,
    RANK_1,
    Attack,
    by_person,
    over_floor,
)  # fmt: skip
from deid_diffusion.evaluation.command import EvalOptions, run_eval
from deid_diffusion.evaluation.results import EvaluationError, Metric, find_metric
from deid_diffusion.evaluation.summary import comparison_table, headline
from tests.evaluation.conftest import portrait, save


def veiled(picture: np.ndarray, photo: int) -> np.ndarray:
    """A bad tool: the face turned by a half and in negative, which only who has the tool can compare."""
    out, noise = picture.copy(), np.random.default_rng([photo, 9]).normal(0, 4, (50, 50, 3))
    out[30:80, 30:80] = (255 - picture[30:80, 30:80][::-1, ::-1] + noise).clip(0, 255)
    return out


def average(people: int) -> np.ndarray:
    return np.mean([portrait(person)[30:80, 30:80] for person in range(people)], axis=0).astype(np.uint8)


@pytest.fixture
def options(crowd, judge_file, detector, monkeypatch) -> EvalOptions:
    monkeypatch.setattr("deid_diffusion.evaluation.html_report._plots", lambda reports: [])
    shared = average(24) // 2 + portrait(77)[30:80, 30:80] // 2
    for person in range(24):
        name = f"{person:03}.png"
        save(crowd / "veiled", name, veiled(portrait(person), 1))
        save(crowd / "parrot", name, veiled(portrait(person, 1), 2))
        for folder, photo in (("outputs", 0), ("gallery", 1)):
            picture = portrait(person, photo)
            picture[30:80, 30:80] = shared
            save(crowd / "floor" / folder, name, picture)
    return EvalOptions(
        originals=crowd / "originals",
        outputs=(crowd / "veiled", crowd / "stranger"),
        out=crowd / "eval",
        gallery=crowd / "gallery",
        judges=(f"{judge_file}:64",),
        parrots=(crowd / "parrot",),
        floor=crowd / "floor",
    )


def metric(report, name: str) -> Metric:
    return find_metric(report.judges[0].metrics, name)


def test_a_parrot_names_who_is_veiled_and_not_who_is_a_stranger(options):
    bad, stranger = run_eval(options)
    assert metric(bad, RANK_1).value < 0.25
    assert metric(bad, PARROT_1).value == 1.0
    assert metric(bad, PARROT_1).chance == pytest.approx(1 / 24)
    assert metric(stranger, PARROT_1).value < 0.25
    more, low, high = metric(bad, PARROT_1).excess
    assert low > 0.5
    assert more == pytest.approx(1 - metric(bad, PARROT_1).floor)
    more, low, high = metric(stranger, RANK_1).excess
    assert low <= 0 <= high


def test_the_words_say_what_is_excess_over_the_surroundings(options):
    bad, stranger = run_eval(options)
    assert "that much the surroundings tell" in headline(bad)[0]
    assert "points (95 % CI" in headline(bad)[0]
    assert "is real." in headline(bad)[0]
    assert "cannot be told from nothing" in headline(stranger)[0]
    table = comparison_table((bad, stranger))
    assert PARROT_1 in table.splitlines()[2]
    assert [line for line in table.splitlines() if line.startswith("| *surroundings alone*")]
    page = (options.out / "report.html").read_text()
    assert "over the surroundings +" in page


def test_pictures_of_a_person_are_pooled_and_more_of_them_tell_more(crowd, judge_file, detector, monkeypatch):
    monkeypatch.setattr("deid_diffusion.evaluation.html_report._plots", lambda reports: [])
    folders = []
    for run in range(4):
        folders.append(crowd / f"run{run}")
        for person in range(24):
            # A weak trace of the person under a strong pattern of its own.
            picture, own = portrait(person), portrait(5000 + 24 * run + person)
            picture[30:80, 30:80] = 0.12 * picture[30:80, 30:80] + 0.88 * own[30:80, 30:80]
            save(folders[-1], f"{person:03}.png", picture)
    options = EvalOptions(
        crowd / "originals", tuple(folders), crowd / "eval", crowd / "gallery", judges=(f"{judge_file}:64",),
        parrots=tuple(folders[::-1]), pool=True,
    )  # fmt: skip
    *single, pooled = run_eval(options)
    assert pooled.method == "pooled"
    assert pooled.faces == 96
    assert pooled.people == 24
    alone = np.mean([metric(report, RANK_1).value for report in single])
    assert metric(pooled, RANK_1).value == pytest.approx(alone)
    assert metric(pooled, POOLED).value > alone + 0.2
    assert metric(pooled, POOLED).n == 24
    assert metric(pooled, POOLED_PARROT).value > 0.9  # the runs are each other's parrots here
    assert metric(single[0], POOLED).value is None


def test_the_excess_is_taken_in_pairs_by_person():
    people = np.array(["a", "a", "b", "c"])
    found = {RANK_1: Attack(np.array([1.0, 0.0, 1.0, 0.0]), people, 0.1)}
    floor = {RANK_1: Attack(np.array([0.0, 1.0, 0.0]), np.array(["a", "b", "z"]), 0.1)}
    assert by_person(found[RANK_1]) == {"a": 0.5, "b": 1.0, "c": 0.0}
    (metric,) = over_floor((Metric(RANK_1, 0.5, n=4),), found, floor, 0)
    assert metric.floor == pytest.approx(1 / 3)
    assert metric.excess[0] == pytest.approx(0.25)  # of a and b; nobody knows c's floor, nor z's value


def test_parrot_and_floor_need_a_gallery_and_one_folder_each(options):
    from dataclasses import replace

    with pytest.raises(EvaluationError, match="give --gallery, too"):
        replace(options, gallery=None)
    with pytest.raises(EvaluationError, match="one parrot for all outputs or one each, got 3 for 2"):
        replace(options, parrots=options.parrots * 3)


def test_the_command_makes_parrot_and_floor_with_the_tool_itself(crowd, judge_file, detector, monkeypatch, capsys):
    monkeypatch.setattr("deid_diffusion.evaluation.html_report._plots", lambda reports: [])
    ran = []

    def run(words):
        """Stands in for `deid run`, whose outputs do not matter here."""
        ran.append(words)
        for path in sorted((crowd / words[0]).iterdir()):
            save(crowd / words[2], path.name, veiled(portrait(int(path.stem)), 3))
        return 0

    monkeypatch.setattr("deid_diffusion.cli.run.main", run)
    words = [crowd / "originals", crowd / "stranger", "--gallery", crowd / "gallery", "-o", crowd / "e"]
    words += ["--judge", f"{judge_file}:64", "--parrot", "run --method blur", "--floor", "run"]
    assert cli.main(["eval", *map(str, words)]) == 0
    assert [(line[2], line[3:]) for line in ran] == [
        (str(crowd / "e/parrot-1"), ["--method", "blur"]),
        (str(crowd / "e/floor/outputs"), ["--method", "average"]),
        (str(crowd / "e/floor/gallery"), ["--method", "average"]),
    ]
    assert "Rank-1, parrot attacker" in capsys.readouterr().out
    assert cli.main(["eval", str(crowd / "originals"), str(crowd / "stranger"), "--parrot", "run"]) == 2
    assert "give --gallery, too" in capsys.readouterr().err
    monkeypatch.setattr(eval_command, "anonymized", lambda *given: 2)
    assert cli.main(["eval", *map(str, words)]) == 2
