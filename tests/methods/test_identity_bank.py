from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion import Settings
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.methods.appearance import AppearanceGroups
from deid_diffusion.methods.identity_bank import IdentityBank
from tests.tiny import DIM, tiny_bank

NOBODY = np.zeros(DIM, np.float32)


def test_the_same_seed_draws_the_same_person():
    bank = tiny_bank()
    draws = [bank.choose(Attributes(), NOBODY, seed).number for seed in (1, 1, *range(40))]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 6


@pytest.mark.parametrize(("age", "number"), [(10.0, 0), (80.0, 11), (42.0, 5)])
def test_the_best_match_in_age_is_drawn_when_only_one_is_asked_for(age, number):
    assert tiny_bank().choose(Attributes(age=age), NOBODY, 0, among=1).number == number


def test_years_count_more_among_children():
    """Nobody of 17 stands in for somebody of 2, nor for one of 35; a man of 47 does for one of 32."""
    bank = tiny_bank()
    bank.attributes[:, 0] = 17
    assert bank.mismatch(Attributes(age=2.0))[0] > 9
    assert bank.mismatch(Attributes(age=35.0))[0] > 4
    bank.attributes[:, 0] = 47
    assert bank.mismatch(Attributes(age=32.0))[0] == pytest.approx(2.25)
    bank.attributes[:, 0] = 5
    assert bank.mismatch(Attributes(age=2.0))[0] < 1


def test_nobody_close_to_the_source_is_drawn_while_there_is_anybody_else():
    bank = tiny_bank()
    for number in range(len(bank.embedding)):
        source = bank.embedding[number]
        for seed in range(10):
            drawn = bank.choose(Attributes(), source, seed, margin=0.5, among=11)
            assert drawn.number != number


def test_two_faces_of_a_picture_become_two_people():
    bank, taken = tiny_bank(), set()
    for seed in range(12):
        taken.add(bank.choose(Attributes(age=30.0), NOBODY, seed, exclude=taken).number)
    assert len(taken) == 12


def test_a_crowd_larger_than_the_bank_still_gets_faces():
    bank = tiny_bank(3)
    assert bank.choose(Attributes(), NOBODY, 0, exclude={0, 1, 2}).number in {0, 1, 2}


def test_a_saved_bank_comes_back(tmp_path):
    bank = tiny_bank()
    bank.save(tmp_path / "bank.safetensors")
    loaded = IdentityBank.load(tmp_path / "bank.safetensors")
    assert np.allclose(loaded.embedding, bank.embedding, atol=1e-3)
    assert np.allclose(np.linalg.norm(loaded.embedding, axis=1), 1)


def test_somebody_of_lighter_skin_is_rather_taken_than_somebody_of_darker():
    bank = IdentityBank(np.eye(2, 8, dtype=np.float32), np.zeros((2, 3), np.float32), np.array(
        [[30, 0, 50, 15, 18], [30, 0, 68, 15, 18]], np.float32))  # fmt: skip
    assert bank.choose(Attributes(skin_l=60.0), -np.ones(8, np.float32), 0, among=1).number == 1
    assert bank.choose(Attributes(skin_l=51.0), -np.ones(8, np.float32), 0, among=1).number == 0


def two_looks() -> tuple[IdentityBank, np.ndarray]:
    """A bank of two groups of looks, and the direction in which they differ."""
    rng, apart = np.random.default_rng(1), np.eye(DIM)[3]
    attributes = rng.normal([40, 0.5, 60, 14, 16], [15, 0.4, 10, 3, 3], (200, 5)).astype(np.float32)
    which = np.arange(200) % 2
    embedding = 0.1 * rng.normal(size=(200, DIM)) + np.outer(2.0 * which - 1, apart)
    embedding += 0.03 * attributes[:, :1]  # age shows, too, and is no look
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    groups = AppearanceGroups.fit(embedding, attributes, 2)
    found = groups(embedding, attributes)
    assert max((found == which).mean(), (found != which).mean()) > 0.97
    bank = IdentityBank(-embedding.astype(np.float32), np.zeros((200, 3), np.float32), attributes)
    return replace(bank, appearance=found.astype(np.float32), groups=groups), embedding


def test_targets_are_of_the_sources_group_of_looks_unless_told(tmp_path):
    bank, sources = two_looks()
    bank.save(tmp_path / "bank.safetensors")
    for one in (bank, IdentityBank.load(tmp_path / "bank.safetensors"), bank.only(np.arange(200))):
        wanted = Attributes(age=float(one.attributes[0, 0]))
        drawn = [one.choose(wanted, sources[0], seed, reach=1.0).number for seed in range(20)]
        assert {int(one.appearance[number]) for number in drawn} == {int(one.appearance[0])}
        drawn = [one.choose(wanted, sources[0], seed, reach=1.0, looks=False).number for seed in range(20)]
        assert {int(one.appearance[number]) for number in drawn} == {0, 1}
    assert not Settings(drop_attributes=("appearance",)).looks
    assert not Settings(privacy="maximum").looks
    assert Settings().looks
    assert "appearance" not in Settings(drop_attributes=("appearance",)).dropped
