"""The privacy dial: less passes at each stop, and each part of a stop does what it says."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from deid_diffusion.faces.attributes import QUANTIZATION_STEP, Attributes
from deid_diffusion.methods.identity_bank import IdentityBank
from deid_diffusion.methods.sampling import wanted_attributes
from deid_diffusion.methods.targets import FreshTargets
from deid_diffusion.privacy import LEVELS
from deid_diffusion.settings import DROPPABLE, Settings
from deid_diffusion.weight_files import weights_dir
from tests.test_anonymizer import FAST, ONE, build, picture

STOPS = tuple(LEVELS)


def test_each_stop_passes_no_more_than_the_one_before():
    for below, above in pairwise(STOPS):
        low, high = LEVELS[below], LEVELS[above]
        assert {*low.drop} <= {*high.drop} <= {*DROPPABLE}
        assert low.growth <= high.growth
        assert low.reach < high.reach
        assert high.texture <= low.texture
        for name in QUANTIZATION_STEP:
            assert name in high.drop or high.coarser.get(name, 1) >= low.coarser.get(name, 1)


def test_a_stop_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="privacy must be one of standard, high, maximum, got 'most'"):
        Settings(privacy="most")


@pytest.mark.parametrize("stop", STOPS)
def test_what_a_stop_drops_is_not_asked_for_unless_the_user_sets_it(stop):
    (task,) = build(ONE).analyze(picture()).tasks
    settings = Settings(privacy=stop, drop_attributes=("male",), attributes={"light_x": 0.1})
    wanted = wanted_attributes(task, settings).to_dict()
    assert not {*wanted} & ({*LEVELS[stop].drop, "male"} - {"light_x"})
    assert wanted["light_x"] == 0.1
    for name, value in wanted.items():
        step = QUANTIZATION_STEP[name] * LEVELS[stop].coarser.get(name, 1)
        assert name == "light_x" or value == pytest.approx(round(value / step) * step, abs=1e-6)


def test_the_skin_is_moved_anew_for_every_seed_and_only_within_its_bound():
    (task,) = build(ONE).analyze(picture()).tasks
    settings, own = Settings(privacy="high"), task.analysis.attributes.to_dict()
    rows = [wanted_attributes(replace(task, seed=seed), settings).to_dict() for seed in range(60)]
    assert rows[0] == wanted_attributes(replace(task, seed=0), settings).to_dict()
    for name, most in zip(("skin_l", "skin_a", "skin_b"), LEVELS["high"].skin_jitter, strict=True):
        found = np.array([row[name] for row in rows])
        assert len(set(found)) > 1
        assert np.abs(found - own[name]).max() <= most + QUANTIZATION_STEP[name] / 2 + 1e-6
    assert len({row["smile"] for row in rows}) == 1


def test_a_larger_mask_hides_more_of_the_picture():
    anonymize = build(ONE)
    shares = [anonymize.analyze(picture(), privacy=stop).tasks[0].inpaint_mask.mean() for stop in STOPS]
    assert shares[0] == shares[1] < shares[2]


def test_the_roughness_of_the_skin_passes_at_every_stop_but_the_last():
    anonymize, rough = build(ONE), []
    analysis = anonymize.analyze(picture())
    tasks = anonymize.generate(anonymize.choose_targets(analysis, seed=3), FAST)
    for stop in STOPS:
        images = [
            anonymize.composite(analysis, [replace(tasks[0], skin_texture=one)], FAST, privacy=stop).image
            for one in (np.full(3, 3.0, np.float32), None)
        ]
        rough.append(not np.array_equal(*images))
    assert rough == [True, True, False]


def test_more_people_are_drawn_from_at_each_stop():
    bank = IdentityBank.load(weights_dir("face256") / "identities.safetensors")
    (task,) = build(ONE).analyze(picture()).tasks
    usual = {"age": 40.0, "male": 1.0, "skin_l": 65.0, "skin_a": 16.0, "skin_b": 15.0}
    counts = []
    for stop in STOPS:
        kept = {name: value for name, value in usual.items() if name not in LEVELS[stop].drop}
        one = replace(task, embedding=bank.embedding[5], wanted=Attributes(**kept))
        policy = FreshTargets(2.0, bank, LEVELS[stop].reach)
        counts.append(len({policy.choose(replace(one, seed=seed), 0, 0, ()).number for seed in range(400)}))
    assert counts[0] < counts[1] < counts[2]


def test_the_dial_does_not_change_what_a_redaction_gives():
    anonymize = build(ONE)
    assert anonymize.resolve(Settings(method="blur", privacy="high")).privacy == "standard"
    assert anonymize.resolve(replace(FAST, privacy="high")).privacy == "high"
