import numpy as np
import pytest

from deid_diffusion.evaluation.attackers import fit_ridge, linear_attack, standardise


def _people(people: int, dim: int, seed: int):
    generator = np.random.default_rng(seed)
    originals = generator.normal(size=(people, dim))
    gallery = originals + 0.1 * generator.normal(size=(people, dim))
    return originals, gallery, np.array([f"{i:03}" for i in range(people)]), generator


def test_a_linear_map_is_recovered():
    generator = np.random.default_rng(0)
    source, weight = generator.normal(size=(100, 8)), generator.normal(size=(8, 5))
    undo = fit_ridge(source, source @ weight + 3)
    fresh = generator.normal(size=(10, 8))
    assert undo(fresh) == pytest.approx(fresh @ weight + 3, abs=1e-2)


def test_the_adaptive_attacker_undoes_a_rotation():
    originals, gallery, ids, generator = _people(200, 16, seed=0)
    rotation = np.linalg.qr(generator.normal(size=(16, 16)))[0]
    result = linear_attack(originals @ rotation, originals, ids, gallery, ids)
    assert result.plain.mean() < 0.1
    assert result.adaptive.mean() > 0.95
    assert result.people == 100


def test_nothing_can_be_learned_from_noise():
    originals, gallery, ids, generator = _people(200, 16, seed=1)
    result = linear_attack(generator.normal(size=originals.shape), originals, ids, gallery, ids)
    assert result.adaptive.mean() < 0.05


def test_too_few_people_are_refused():
    originals, gallery, ids, _ = _people(19, 8, seed=2)
    with pytest.raises(ValueError, match="at least 20 people, got 19"):
        linear_attack(originals, originals, ids, gallery, ids)


def test_what_never_varies_or_is_unknown_does_not_count():
    reference = np.array([[0.0, 5.0, np.nan], [2.0, 5.0, np.nan]])
    assert standardise(np.array([[2.0, 9.0, 1.0], [np.nan, 5.0, np.nan]]), reference).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
    ]
