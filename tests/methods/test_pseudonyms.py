"""The same person becomes the same stranger: in pictures, clips and processes, and after crashes."""

import multiprocessing
import os
import pickle
import time
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np
import pytest

from deid_diffusion import Pseudonyms, cli
from deid_diffusion.cli import run as run_command
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.jobs.journal import describe, fingerprint
from deid_diffusion.methods.identity_bank import IdentityBank
from deid_diffusion.methods.key_file import PseudonymError
from deid_diffusion.methods.pseudonyms import PseudonymTargets
from deid_diffusion.methods.targets import TrackTargets
from deid_diffusion.settings import Settings
from tests.fakes import photo
from tests.test_anonymizer import FAST, ONE, TWO, build, picture
from tests.tiny import DIM, tiny_bank

FORK = multiprocessing.get_context("fork")  # torch is imported once
ADULT = Attributes(age=40.0)


def bank(people: int = 200) -> IdentityBank:
    return tiny_bank(people)


def somebody(number: int) -> np.ndarray:
    """(D,) unit norm; people of other numbers are hardly alike."""
    vector = np.random.default_rng(number).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def met(key: Pseudonyms, number: int, of: IdentityBank | None = None) -> tuple[int, int]:
    person = key.person(of or bank(), 2.0, ADULT, somebody(number))
    return person.number, person.target


@pytest.fixture
def key(tmp_path) -> Pseudonyms:
    return Pseudonyms(Pseudonyms.new(tmp_path / "my.key").key.path, same=0.95)


def again(key: Pseudonyms) -> Pseudonyms:
    """As another process sees it."""
    return pickle.loads(pickle.dumps(key))


def test_the_same_person_gets_the_same_stranger_and_others_get_others(key):
    first = [met(key, number) for number in range(10)]
    assert [number for number, _ in first] == list(range(1, 11))
    assert len({target for _, target in first}) == 10
    assert [met(again(key), number) for number in range(10)] == first


def test_with_another_key_they_get_other_strangers(tmp_path):
    targets = []
    for name in ("a.key", "b.key"):
        key = Pseudonyms.new(tmp_path / name)
        key.same = 0.95
        targets.append([met(key, number)[1] for number in range(20)])
    same = sum(a == b for a, b in zip(*targets, strict=True))
    assert same <= 4  # by chance, of a group of 64


def test_the_stranger_is_of_the_group_that_fits(key):
    people = bank()
    for number, age in enumerate((15.0, 45.0, 75.0)):
        target = key.person(people, 2.0, Attributes(age=age), somebody(number)).target
        assert target in people.group(Attributes(age=age), somebody(number), among=64)
        assert target not in people.group(Attributes(age=age), somebody(number), among=200)[64:]


def test_strangers_are_shared_only_once_the_group_is_used_up(key):
    few = bank(6)
    targets = [met(key, number, few)[1] for number in range(12)]
    assert len(set(targets[:6])) == 6
    assert sorted(targets[:6]) == sorted(targets[6:])


def test_without_a_threshold_of_its_own_the_weights_say_who_is_the_same(tmp_path):
    anonymize, key = build(ONE), Pseudonyms.new(tmp_path / "a.key")
    for same, people in ((1.01, [1, 2]), (-1.01, [1, 1])):
        anonymize.thresholds = anonymize.thresholds | {"real_far_0.01": same}
        policy = anonymize.default_policy(Settings(pseudonyms=key))
        assert [policy.for_person(ADULT, somebody(1), 0, ()).pseudonym for _ in range(2)] == people


def test_two_faces_of_a_picture_are_never_one_person(key):
    person = key.person(bank(), 2.0, ADULT, somebody(1))
    twin = key.person(bank(), 2.0, ADULT, somebody(1), taken={person.target})
    assert twin.number != person.number
    assert twin.target != person.target


def test_pictures_of_a_key(key):
    anonymize = build(TWO)
    key.same = -1.0  # whatever these tiny networks say of noise, it is somebody whom the key knows
    settings = replace(FAST, pseudonyms=key)
    one, other = (anonymize(np.roll(picture(), n), seed=n, settings=settings).faces for n in (1, 2))
    assert [face.pseudonym for face in one] == [face.pseudonym for face in other] == [1, 2]
    assert len({one[0].seed, other[0].seed}) == 2
    assert one[0].to_json()["pseudonym"] == 1
    assert "pseudonym" not in anonymize(picture(), settings=FAST).faces[0].to_json()


def test_all_candidates_and_rounds_of_a_face_are_its_stranger(key):
    anonymize = build(TWO)
    settings = replace(FAST, pseudonyms=key, candidates=3)
    tasks = anonymize.choose_targets(anonymize.analyze(picture()), settings=settings)
    assert [len({target.number for target in task.targets}) for task in tasks] == [1, 1]
    policy = PseudonymTargets(1.0, anonymize.bank, key, 2.0)
    assert policy.choose(tasks[0], 2, 0, {0, 1, 2}) is tasks[0].targets[0]


def test_tracks_of_a_person_share_a_stranger_unless_they_are_seen_together(key):
    tracks = TrackTargets(1.0, bank(), people=PseudonymTargets(1.0, bank(), key, 2.0))
    first, later = tracks.add(0, 0, ADULT, somebody(1)), tracks.add(1, 1, ADULT, somebody(1))
    beside = tracks.add(2, 2, ADULT, somebody(1), beside={0, 1})
    assert first.number == later.number != beside.number
    assert met(key, 1)[1] == first.number  # and in pictures


def test_merge_and_forget(key):
    first, second, third = (met(key, number) for number in range(3))
    key.merge(1, [2])
    assert met(key, 1) == met(key, 0) == first
    key.forget([3])
    newcomer = met(again(key), 2)
    assert newcomer[0] == 4
    assert newcomer[1] not in (first[1], second[1], third[1])
    for wrong in (lambda: key.forget([1, 9]), lambda: key.merge(1, [9]), lambda: key.merge(1, [1])):
        with pytest.raises(PseudonymError):
            wrong()
    assert [one.number for one in again(key).people] == [1, 4]


def files(key: Pseudonyms) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in key.key.path.parent.iterdir()}


def test_nothing_of_a_person_lies_open(key):
    met(key, 1)
    assert all(path.stat().st_mode & 0o77 == 0 for path in key.key.path.parent.iterdir())
    secrets = (somebody(1).tobytes(), somebody(1)[:4].tobytes(), key.key.secret)
    sealed = key.file.path.read_bytes()
    assert not any(secret in sealed for secret in secrets)
    for text in (str(key), repr(key), repr(key.people), str(describe(Settings(pseudonyms=key)))):
        assert key.key.secret.hex() not in text
        assert "array" not in text
    assert key.key.secret not in pickle.dumps(key)


def test_another_key_is_another_run(key, tmp_path):
    other = Pseudonyms.new(tmp_path / "other.key")
    marks = [fingerprint(Settings(pseudonyms=one)) for one in (None, key, again(key), other)]
    assert marks[1] == marks[2]
    assert len(set(marks)) == 3


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("my.key", None, "wanted a key, found no file"),
        ("my.key", lambda data: b"", "got an empty file"),
        ("my.key", lambda data: b"hello", "got another file"),
        ("my.key", lambda data: data.replace(b"key 1", b"key 2"), "of another version"),
        ("my.key", lambda data: data[:30], "got a damaged one"),
        ("my.key", lambda data: data[:11] + (b"B" if data[11:12] != b"B" else b"C") + data[12:], "with another key"),
        ("my.key.people", None, "found no file; restore a backup"),
        ("my.key.people", lambda data: b"", "got an empty file"),
        ("my.key.people", lambda data: b"nonsense", "got a damaged or another file"),
        ("my.key.people", lambda data: data[:60], "is damaged"),
        ("my.key.people", lambda data: flipped(data, len(data) - 5), "is damaged"),
        ("my.key.people", lambda data: data[:14] + b"0" * 16 + data[30:], "sealed with another key"),
        ("my.key.people", lambda data: data.replace(b"people 1", b"people 2"), "another version"),
    ],
)
def test_what_cannot_be_used_is_said_and_left_as_it_is(key, name, change, said, capsys):
    met(key, 1)
    path = key.key.path.with_name(name)
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    before = files(key)
    with pytest.raises(PseudonymError, match=said) as caught:
        Pseudonyms(key.key.path)
    assert len(str(caught.value)) < 400
    assert cli.main(["run", "nothing.jpg", "--key", str(key.key.path)]) == 2
    assert cli.main(["key", "people", "forget", str(key.key.path), "1"]) == 2
    assert capsys.readouterr().err.count("deid: ") == 2
    assert files(key) == before


def test_people_of_other_weights_are_refused(key):
    met(key, 1)
    other = replace(bank(), embedding=-bank().embedding)
    before = files(key)
    with pytest.raises(PseudonymError, match="met with other weights"):
        met(key, 1, other)
    assert files(key) == before


def test_a_key_that_others_may_read_is_warned_of(key, caplog):
    key.key.path.chmod(0o644)
    again(key)
    assert "others may read this key" in caplog.text
    assert "people of this key" not in caplog.text
    key.key.path.chmod(0o600)
    key.file.path.chmod(0o644)
    caplog.clear()
    again(key)
    assert "others may read the people of this key" in caplog.text
    assert "others may read this key" not in caplog.text


def test_a_key_is_never_written_over(key):
    before = files(key)
    with pytest.raises(PseudonymError, match="one that exists"):
        Pseudonyms.new(key.key.path)
    key.key.path.unlink()
    with pytest.raises(PseudonymError, match="of another key"):
        Pseudonyms.new(key.key.path)
    assert files(key) == {name: data for name, data in before.items() if name != "my.key"}


def _enrol(path: str, numbers: list[int]) -> list[tuple[int, int]]:
    key = Pseudonyms(path, same=0.95)
    return [met(key, number) for number in numbers]


def test_two_processes_at_once_agree_on_everybody(key):
    order = list(range(24))
    with FORK.Pool(2) as pool:
        jobs = [pool.apply_async(_enrol, (str(key.key.path), numbers)) for numbers in (order, order[::-1])]
        one, other = (job.get(timeout=200) for job in jobs)
    assert one == other[::-1]
    assert sorted(number for number, _ in one) == list(range(1, 25))
    assert len({target for _, target in one}) == 24


def _enrol_until_killed(path: str, told: Connection) -> None:
    key = Pseudonyms(path, same=0.95)
    for number in range(100000):
        told.send(met(key, number))


def test_kill_in_the_middle_of_writing_loses_nobody(key):
    """Killed again and again at random times, some of them between the part file and its last name."""
    known: dict[int, int] = {}
    for wait in (0.0, 0.003, 0.007, 0.011, 0.013, 0.017, 0.023, 0.029):
        here, there = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_enrol_until_killed, args=(str(key.key.path), there))
        process.start()
        there.close()
        for _ in range(len(known) + 3):
            number, target = here.recv()
            known[number] = target
        time.sleep(wait)
        process.kill()
        process.join()
        found = {one.number: one.target for one in again(key).people}
        assert known.items() <= found.items()
    assert met(again(key), 0)[0] == 1


def test_a_part_file_of_a_crash_is_written_over_and_a_failed_write_leaves_the_old_whole(key, monkeypatch):
    met(key, 1)
    part = key.file.path.with_name(f".{key.file.path.name}.part")
    part.write_bytes(b"half")
    met(key, 2)
    assert not part.exists()
    before = files(key)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PseudonymError, match="No space left on device; what was there is whole"):
        met(key, 3)
    assert files(key) == before


def test_a_face_whose_person_cannot_be_told_is_hidden(key):
    met(key, 1, tiny_bank())
    settings = replace(FAST, pseudonyms=key)
    key.file.path.write_bytes(b"")
    (face,) = build(ONE)(picture(), settings=settings).faces
    assert face.outcome.value == "failed"
    assert "got an empty file" in face.reason


@pytest.mark.parametrize("method", ["swap", "blur", "k-same", "perturb"])
def test_a_key_is_refused_where_nobody_gets_a_face_of_their_own(key, method, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="stranger of their own"):
        build(ONE)(picture(), method=method, pseudonyms=key)
    monkeypatch.setattr(run_command, "_load", lambda options: pytest.fail("loaded"))
    words = ["run", str(photo(tmp_path / "in" / "a.png")), "--method", method, "--key", str(key.key.path)]
    assert cli.main(words) == 2
    assert "stranger of their own" in capsys.readouterr().err


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_command, "_load", lambda options: build(ONE))
    path = str(tmp_path / "my.key")
    assert cli.main(["key", "new", path]) == 0
    for name in "ab":
        photo(tmp_path / "in" / f"{name}.png", side=320)
    report = tmp_path / "report.json"
    words = ["run", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--steps", "1", "--report", str(report)]
    words += ["--workers", "1"]
    assert cli.main([*words, "--key", path]) == 0
    text = report.read_text()
    assert text.count('"pseudonym": ') == 2
    assert f"key {Pseudonyms(path).key.name}" in text
    capsys.readouterr()
    assert cli.main(["key", "people", "list", path]) == 0
    assert capsys.readouterr().out.startswith("person 1: stranger ")
    assert cli.main(["key", "people", "forget", path, "3"]) == 2
    assert "knows no person 3" in capsys.readouterr().err
    assert cli.main(["key", "people", "merge", path, "1", "2"]) == 0
    assert "1 people" in capsys.readouterr().out
    assert cli.main(["key", "people", "forget", path, "1"]) == 0
    assert "0 people" in capsys.readouterr().out
    assert cli.main(["key", "new", path]) == 2
