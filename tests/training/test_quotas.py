"""Who is kept: shares come out as wanted though those who come are mostly alike."""

import numpy as np
import pytest

from deid_diffusion.training.face_labels import MEASURED
from deid_diffusion.training.quotas import TRAITS, Quotas, Trait
from deid_diffusion.training.style_map import StyleMap

AGE = Trait("age", (13.0, 65.0), ("child", "adult", "old"), (0.25, 0.5, 0.25))
HAT = Trait("hat", (0.5,), ("bare", "hat"), (0.8, 0.2))


def test_the_traits_are_the_first_measures():
    """The command hands the quotas whole rows of measures."""
    assert tuple(trait.name for trait in TRAITS) == MEASURED[: len(TRAITS)]


@pytest.mark.parametrize(
    ("value", "group"), [(0, "child"), (12.9, "child"), (13.0, "adult"), (64, "adult"), (65, "old"), (200, "old")]
)
def test_an_edge_belongs_to_the_group_above_it(value, group):
    number = Quotas([AGE]).groups(np.array([[value]]))[0, 0]
    assert AGE.groups[number] == group


@pytest.mark.parametrize(
    ("edges", "shares"), [((2.0, 1.0), (0.5, 0.25, 0.25)), ((1.0,), (0.5, 0.25, 0.25)), ((1.0, 2.0), (0.5, 0.6, -0.1))]
)
def test_a_trait_that_parts_nothing_is_refused(edges, shares):
    with pytest.raises(ValueError, match="age: "):
        Trait("age", edges, ("a", "b", "c"), shares)


def test_everybody_is_as_welcome_as_anybody_when_shares_are_as_wanted():
    quotas = Quotas([AGE, HAT])
    assert quotas.need_of(np.array([0, 1])) == pytest.approx(0)
    for age, hat in [(0, 0), (1, 0), (1, 0), (2, 0)] * 4 + [(0, 1), (1, 1), (1, 1), (2, 1)]:
        quotas.count(np.array([age, hat]))
    assert quotas.need_of(np.array([2, 1])) == pytest.approx(0)


def test_need_falls_for_those_who_came_and_rises_for_the_rest():
    quotas = Quotas([AGE, HAT])
    for _ in range(50):
        quotas.count(np.array([1, 0]))
    assert quotas.need_of(np.array([1, 0])) < -0.4
    assert quotas.need_of(np.array([2, 1])) > 1


def test_chances_are_those_of_the_groups_and_say_the_need():
    quotas = Quotas([AGE, HAT])
    quotas.count(np.array([1, 0]))
    sure = quotas.chances(np.array([[40.0, 0.0], [80.0, 1.0]]), np.array([1e-3, 1e-3]))
    np.testing.assert_allclose(sure[0], [[0, 1, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(quotas.need(sure), [quotas.need_of(np.array([1, 0])), quotas.need_of(np.array([2, 1]))])
    unsure = quotas.chances(np.array([[13.0, 0.2]]), np.array([10.0, 0.3]))
    assert unsure[0][0, 0] == pytest.approx(0.5)
    assert [chance.sum() for chance in unsure] == pytest.approx([1, 1])


def test_of_people_who_are_mostly_adults_without_hats_the_kept_are_balanced():
    dice, quotas = np.random.default_rng(0), Quotas([AGE, HAT])
    came = np.stack([dice.choice(3, 4000, p=[0.07, 0.9, 0.03]), dice.choice(2, 4000, p=[0.95, 0.05])], 1)
    for group in came:
        if quotas.need_of(group) > -0.1:
            quotas.count(group)
    shares = quotas.counts[0] / quotas.counts[0].sum()
    assert quotas.counts[0].sum() > 500
    # Half of everybody is wanted from 10 % of those who come: near, not exact.
    np.testing.assert_allclose(shares, AGE.shares, atol=0.09)


def test_a_style_map_reads_what_it_was_shown_and_moves_one_thing_alone():
    dice = np.random.default_rng(0)
    mixing = dice.normal(size=(12, 12))
    natural = dice.normal(size=(3000, 12)) @ mixing + 5
    slope = dice.normal(size=(12, 3))
    seen = natural[:400]
    measured = seen @ slope + [10, 0, -3] + 0.1 * dice.normal(size=(400, 3))
    reads = StyleMap.fit(seen, measured, natural.mean(0), np.cov(natural.T))
    error = reads.read(natural[400:]) - (natural[400:] @ slope + [10, 0, -3])
    assert np.abs(error).mean() < 0.2 * np.abs(natural @ slope - (natural @ slope).mean(0)).mean()
    moved = reads.move(natural[:5], np.tile([0.0, 2.0, 0.0], (5, 1)))
    change = (moved - natural[:5]) @ slope
    np.testing.assert_allclose(change, np.tile([0, 2, 0], (5, 1)), atol=0.3)


def test_only_far_out_styles_are_in_excess():
    dice = np.random.default_rng(1)
    natural = dice.normal(size=(2000, 6))
    reads = StyleMap.fit(natural, natural[:, :2], natural.mean(0), np.cov(natural.T))
    assert (reads.excess(natural) > 0).mean() < 0.1
    assert reads.excess(natural.mean(0)[None] + [4.0, 0, 0, 0, 0, 0])[0] > 1


def test_what_styles_do_not_say_is_not_read_from_them():
    """With few people and many directions, a fit without enough hold finds a slope in noise."""
    dice = np.random.default_rng(2)
    natural = dice.normal(size=(500, 100))
    measured = np.stack([natural[:, 0], dice.normal(size=500)], 1)[:150]
    reads = StyleMap.fit(natural[:150], measured, natural.mean(0), np.cov(natural.T))
    assert reads.natural[1] < 0.3  # of 1, what noise varies by
    assert reads.deviation[1] == pytest.approx(1, abs=0.15)
    assert np.corrcoef(reads.read(natural[150:])[:, 0], natural[150:, 0])[0, 1] > 0.8
