"""What of a face's motion passes."""

import numpy as np
import pytest

from deid_diffusion.faces.attributes import QUANTIZATION_STEP, Attributes
from deid_diffusion.faces.motion import COARSE, DYNAMIC, FINE, GAIN, STATIC, Motion, smooth, summarize, weighted_median
from deid_diffusion.pipelines.conditioning import FIELDS

MIDDLE = {name: (field.low + field.high) / 2 for name, field in FIELDS.items()}


@pytest.mark.parametrize(
    ("values", "weights", "median"),
    [([3], [1], 3), ([1, 2, 9], [1, 1, 1], 2), ([0, 1], [1, 5], 1), ([0, 0, 1], [1, 1, 9], 1)],
)
def test_the_median_goes_by_weight(values, weights, median):
    assert weighted_median(values, weights) == median


def test_glasses_are_voted_on():
    rows = [MIDDLE | {"glasses": value} for value in (0.9, 0.8, 0.1)]
    assert summarize(rows, [1, 1, 1]).quantize().glasses == 1
    assert summarize(rows, [1, 1, 9]).quantize().glasses == 0


def test_what_does_not_move_passes_once():
    motion = Motion(Attributes(**MIDDLE | {"age": 41.0}))
    passed = [motion(MIDDLE | {"age": age, "glasses": 1.0}).to_dict() for age in (20.0, 70.0)]
    assert all(row["age"] == 40 for row in passed)
    assert {name for name in FIELDS if passed[0][name] != passed[1][name]} == set()
    assert set(STATIC) | set(DYNAMIC) == set(FIELDS)


@pytest.mark.parametrize(("parts", "levels"), [(FINE, 20), (COARSE, 3)])
def test_motion_passes_in_parts_of_a_step(parts, levels):
    motion, step = Motion(Attributes(**MIDDLE | {"smile": 0.1}), parts), QUANTIZATION_STEP["smile"]
    opened = np.linspace(0, 0.6, 200)
    passed = np.array([motion(MIDDLE | {"smile": value}).smile for value in opened])
    assert levels * 0.7 <= len(set(passed.round(6).tolist())) <= levels * 1.3
    assert np.abs(passed - opened + 0.1).max() < step / 2 + step / parts


def test_the_mean_of_many_frames_does_not_give_the_level_back():
    # A level between two steps, and noise about it: what is quantised frame by frame gives it away on average.
    rng, level = np.random.default_rng(0), 3.75
    values = level + rng.normal(0, 3, 500)
    step = QUANTIZATION_STEP["yaw_deg"]
    by_frame = np.mean([round(value / step) * step for value in values])
    motion = Motion(Attributes(**MIDDLE | {"yaw_deg": float(np.median(values))}))
    passed = np.mean([motion(MIDDLE | {"yaw_deg": value}).yaw_deg for value in values])
    assert abs(by_frame - level) < 0.4
    assert abs(passed - level) > 3


def test_a_value_at_an_edge_does_not_flicker():
    motion, part = Motion(Attributes(**MIDDLE | {"smile": 0.5})), QUANTIZATION_STEP["smile"] / FINE
    passed = [motion(MIDDLE | {"smile": 0.5 + part * (0.5 + wobble)}).smile for wobble in (0.1, -0.1, 0.2, -0.2)]
    assert len(set(passed)) == 1


def test_smoothing_takes_the_middle_for_what_is_missing():
    one, other = (Attributes(age=40.0, smile=value) for value in (0.0, 0.8))
    assert smooth(one, other, one).smile == pytest.approx(0.4)
    assert smooth(None, other, one).smile == pytest.approx(0.6)
    assert smooth(None, other, None).to_dict() == pytest.approx(other.to_dict())


def test_speech_of_a_mouth_that_is_mostly_nearly_shut_passes_whole():
    # Half of what it says lies below its own median; from there on, all of that was cut off at 0.
    opened = np.abs(np.sin(np.linspace(0, 40, 400))) * 0.2
    rows = [MIDDLE | {"mouth_open": value} for value in opened]
    motion = Motion(summarize(rows, [1.0] * len(rows)))
    passed = np.array([motion(row).mouth_open for row in rows])
    slope = np.polyfit(opened, passed, 1)[0]
    assert slope == pytest.approx(GAIN["mouth_open"], abs=0.2)
    assert np.corrcoef(opened, passed)[0, 1] > 0.98


@pytest.mark.parametrize("level", [0.5, 0.68, 0.9])
def test_a_blink_shuts_eyes_of_any_width(level):
    motion = Motion(Attributes(**MIDDLE | {"eyes_open": level}))
    rest, half, shut = (motion(MIDDLE | {"eyes_open": level * share}).eyes_open for share in (1.0, 0.5, 0.0))
    assert half / rest == pytest.approx(0.5, abs=0.06)
    assert shut / rest < 0.05


def test_eyes_that_are_shut_all_along_can_open():
    motion = Motion(Attributes(**MIDDLE | {"eyes_open": 0.0}))
    passed = [motion(MIDDLE | {"eyes_open": level}).eyes_open for level in (0.0, 0.5, 0.0)]
    assert passed == pytest.approx([0, 0.5, 0], abs=0.03)


def test_a_blink_of_one_frame_is_not_smoothed_away():
    open_eyes, shut = Attributes(eyes_open=0.7, yaw_deg=0.0), Attributes(eyes_open=0.0, yaw_deg=8.0)
    assert smooth(open_eyes, shut, open_eyes).eyes_open == 0
    assert smooth(open_eyes, shut, open_eyes).yaw_deg == 4


def test_a_nod_of_which_half_is_read_passes_by_so_much_more():
    motion = Motion(Attributes(**MIDDLE | {"pitch_deg": 0.0}))
    level, nod = (motion(MIDDLE | {"pitch_deg": value}).pitch_deg for value in (0.0, 7.5))
    assert nod - level == pytest.approx(7.5 * GAIN["pitch_deg"], abs=0.5)


def test_who_keeps_the_eyes_shut_is_not_made_to_laugh():
    weeping = MIDDLE | {"eyes_open": 0.05, "smile": 0.95}
    motion = Motion(summarize([weeping] * 5, [1.0] * 5))
    assert motion.rest.smile == 0
    assert [motion(weeping | {"smile": value}).smile for value in (0.95, 0.2, 1.0)] == [0, 0, 0]
    laughing = weeping | {"eyes_open": 0.5}
    assert Motion(summarize([laughing] * 5, [1.0] * 5))(laughing).smile > 0.7
