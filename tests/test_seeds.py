"""Seeds are drawn from the system unless given, and nothing that is published tells them."""

import json
import os

import numpy as np
import pytest

from deid_diffusion import cli
from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.cli import run as run_command
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.jobs.journal import NAME, OUTPUTS
from deid_diffusion.methods.identity_bank import IdentityBank
from deid_diffusion.methods.targets import FreshTargets
from deid_diffusion.seeds import BITS, checked_seed, derived_seed
from deid_diffusion.types import Face
from deid_diffusion.video import VideoAnonymizer
from deid_diffusion.weight_files import weights_dir

from .fakes import Inverter, photo


@pytest.fixture
def painter(monkeypatch) -> Inverter:
    anonymize = Inverter()
    monkeypatch.setattr(run_command, "_load", lambda options: anonymize)
    return anonymize


@pytest.fixture
def tree(tmp_path):
    for name in ("a.png", "b.png"):
        photo(tmp_path / "in" / name)
    return tmp_path / "in"


def run(tree, *words) -> int:
    return cli.main(["run", str(tree), "-o", str(tree.parent / "out"), *map(str, words)])


def seeds(painter: Inverter) -> dict[str, int]:
    """What the anonymizer was last given for each picture."""
    return {name: seed for name, seed, *_ in painter.calls}


def everything(folder) -> str:
    """All bytes below a folder, as text."""
    return "".join(path.read_bytes().decode("latin1") for path in folder.rglob("*") if path.is_file())


def test_without_a_seed_each_run_draws_one_that_nothing_published_tells(tree, painter):
    drawn = set()
    for _ in range(3):
        assert run(tree, "--overwrite", "--report", tree.parent / "report.json") == 0
        drawn |= {*seeds(painter).values()}
        told = everything(tree.parent)
        assert '"seed"' not in told
        assert not [seed for seed in drawn if str(seed) in told or str(seed + 1) in told]
    assert len(drawn) == 6
    assert max(drawn) > 2**50
    assert not (tree.parent / "out" / NAME).exists()


def test_a_report_with_seeds_calls_itself_confidential_and_its_seeds_make_the_same_again(tree, painter):
    report = tree.parent / "report.json"
    assert run(tree, "--report", report, "--report-seeds") == 0
    told = json.loads(report.read_text())
    assert "keep it to yourself" in told["confidential"]
    assert {row["file"]: row["seed"] for row in told["files"]} == seeds(painter)
    assert [face["seed"] for face in told["faces"]] == [row["seed"] + 1 for row in told["files"]]
    again = ["run", str(tree / "b.png"), "-o", str(tree.parent / "b.png"), "--seed", str(told["files"][1]["seed"])]
    assert cli.main(again) == 0
    assert painter.calls[-1][1] == told["files"][1]["seed"]
    # What an earlier run drew is not known any more, and no other number stands in its place.
    assert run(tree, "--report", report, "--report-seeds") == 0
    assert [row["seed"] for row in json.loads(report.read_text())["files"]] == [None, None]


def test_seeds_for_a_report_that_nobody_asked_for_are_refused(tree, painter, capsys):
    assert run(tree, "--report-seeds") == 2
    assert "give --report too" in capsys.readouterr().err


def test_a_stopped_run_leaves_a_journal_for_its_owner_and_goes_on_with_its_seeds(tree, painter, capsys):
    painter.stop_at, painter.error = 1, KeyboardInterrupt()
    mask = os.umask(0)
    try:
        assert run(tree) == 130
    finally:
        os.umask(mask)
    journal = tree.parent / "out" / NAME
    assert journal.stat().st_mode & 0o777 == 0o600
    assert "confidential" in journal.read_text().splitlines()[0]
    assert f"{journal} holds the seeds: keep it to yourself" in capsys.readouterr().err
    begun = {line["out"]: line["seed"] for line in map(json.loads, journal.read_text().splitlines()[1:])}
    painter.stop_at = None
    assert run(tree) == 0
    assert seeds(painter) == begun
    assert not journal.exists()


def test_a_journal_that_others_could_read_is_closed_to_them(tree, painter):
    journal = tree.parent / "out" / NAME
    journal.parent.mkdir()
    journal.write_text("")
    journal.chmod(0o644)
    (tree / "bad.png").write_text("no picture")
    assert run(tree) == 1
    assert journal.stat().st_mode & 0o777 == 0o600


def test_a_run_with_a_failure_keeps_its_journal_and_the_retry_its_seeds(tree, painter):
    (tree / "bad.png").write_text("no picture")
    assert run(tree) == 1
    journal = tree.parent / "out" / NAME
    begun = {line["out"]: line["seed"] for line in map(json.loads, journal.read_text().splitlines()[1:])}
    photo(tree / "bad.png")
    assert run(tree) == 0
    assert seeds(painter) == begun
    assert not journal.exists()


@pytest.mark.parametrize("first", [[], ["--seed", "7"]])
def test_after_a_finished_run_the_next_one_does_what_is_new(tree, painter, first):
    assert run(tree, *first) == 0
    kept = (tree.parent / "out" / OUTPUTS).read_text()
    assert not [name for name in ('"seed"', "run_seed") if name in kept]
    assert not [seed for seed in seeds(painter).values() if str(seed) in kept]
    photo(tree / "c.png")
    painter.calls.clear()
    assert run(tree, *first) == 0
    assert [*seeds(painter)] == ["c.png"]
    assert run(tree) == 0  # whoever names no seed is content with what there is


def test_another_seed_than_that_of_a_finished_run_asks_for_overwrite(tree, painter, capsys):
    for first in (["--seed", "7"], ["--overwrite"]):
        assert run(tree, *first) == 0
        assert run(tree, "--seed", "8") == 1
        assert "was made with other settings" in capsys.readouterr().err


def test_in_python_a_seed_is_drawn_too(monkeypatch):
    drawn = [checked_seed(None) for _ in range(20)]
    assert len(set(drawn)) == 20
    assert max(drawn).bit_length() in range(BITS - 8, BITS + 1)
    assert checked_seed(7) == 7
    for call in (FaceAnonymizer.__call__, FaceAnonymizer.map, FaceAnonymizer.choose_targets):
        assert call.__defaults__[0 if call is not FaceAnonymizer.choose_targets else 1] is None
    assert VideoAnonymizer.__call__.__defaults__[0] is None
    with pytest.raises(ValueError, match="whole number from 0 on, or None"):
        checked_seed(-1)


def test_the_seed_of_what_can_be_seen_tells_nothing_of_the_target_s():
    task = FaceTask(Face(np.array([0, 0, 9, 9]), np.ones((5, 2))), 3, seed=11)
    assert len({task.draw_seed(), task.draw_seed(use="target"), task.draw_seed(1), task.draw_seed(0, 1)}) == 4
    assert derived_seed(1, 23) != derived_seed(12, 3)


def test_two_pictures_of_a_person_share_a_target_no_more_often_than_two_people_alike():
    """The shipped bank, 400 pairs of each kind; by chance alone three times the expected number never happens."""
    bank, draws = IdentityBank.load(weights_dir("face256") / "identities.safetensors"), np.random.default_rng(0)
    policy = FreshTargets(0.35, bank)
    face = Face(np.array([0, 0, 9, 9]), np.ones((5, 2)))
    pairs, same_person, alike = 400, 0, 0
    for _ in range(pairs):
        person, other = (bank.embedding[n] for n in draws.choice(len(bank.embedding), 2, replace=False))
        wanted = Attributes(age=30.0, male=1.0, skin_l=60.0, skin_a=12.0, skin_b=15.0)
        chosen = [
            policy.choose(FaceTask(face, 0, seed=checked_seed(None), wanted=wanted, embedding=who), 0, 0, ()).number
            for who in (person, person, other)
        ]
        same_person += chosen[0] == chosen[1]
        alike += chosen[0] == chosen[2]
    print(same_person, alike)
    assert same_person <= 3 * pairs / 32
