from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion.faces.attributes import QUANTIZATION_STEP, Attributes, check_attributes
from deid_diffusion.faces.estimator import FaceEstimator, as_unit, split_outputs
from deid_diffusion.faces.geometry import FIVE, crop_from_image
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, POINTS
from tests.tiny import tiny_estimator

CROP = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)


def test_the_fields_are_those_of_the_pipeline_in_its_order():
    assert tuple(Attributes.__dataclass_fields__) == ATTRIBUTE_NAMES


def test_only_what_is_set_is_valid():
    vector = Attributes(age=55.0).to_vector()
    assert vector[len(ATTRIBUTE_NAMES) :].sum() == 1
    assert Attributes(age=55.0, smile=0.2).with_changes({"age": None}).to_dict() == {"smile": 0.2}


@pytest.mark.parametrize(("change", "message"), [({"age": -3}, "age"), ({"charm": 1}, "unknown attribute")])
def test_impossible_changes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_attributes(change)
    with pytest.raises((ValueError, TypeError)):
        Attributes().with_changes(change)


def test_reading_gives_every_attribute_in_range():
    for reading in tiny_estimator().analyze(CROP):
        assert set(reading.attributes.to_dict()) == set(ATTRIBUTE_NAMES)
        assert reading.landmarks.shape == (478, 3)


def test_landmarks_alone_are_those_of_a_whole_reading():
    estimator = tiny_estimator()
    assert np.allclose(estimator.landmarks(CROP)[1], estimator.analyze(CROP)[1].landmarks)


def test_outputs_are_cut_without_overlap():
    logits = torch.arange(1445.0)[None]
    read = split_outputs(logits)
    assert read.landmarks[0, 477, 2] == 1433
    assert read.age[0] == 35 + 20 * 1434
    assert read.male[0] == 1435
    assert read.expression[0].tolist() == list(range(1436, 1443))
    assert (read.glasses[0], read.facial_hair[0]) == (1443, 1444)


def test_guide_points_keep_the_pose_and_drop_the_person():
    estimator = tiny_estimator()
    reading = estimator.analyze(CROP)[0]
    same_pose_other_person = [
        type(reading)(place.place(estimator.shape.expressed(expression, person)), reading.attributes, place)
        for place, expression, person in (
            (reading.placement, np.full(6, 0.4), np.array([2.0, 0, 0, 0])),
            (reading.placement, np.full(6, 0.4), np.array([-2.0, 1, 2, 0])),
        )
    ]
    first, second = (estimator.target_points(r, Attributes()) for r in same_pose_other_person)
    assert first.shape == (len(POINTS), 2)
    assert np.array_equal(first, second)
    target = estimator.target_points(same_pose_other_person[0], Attributes(), np.array([0.0, 0, 2, 1]))
    assert np.abs(target - first).max() > 0.5


def test_guide_points_do_not_depend_on_the_sources_proportions_or_fine_numbers():
    estimator = tiny_estimator()
    reading = estimator.analyze(CROP)[0]
    fine = reading.attributes.with_changes({"yaw_deg": 11.0, "brow_raise": 0.30, "gaze_y": -0.1})
    finer = reading.attributes.with_changes({"yaw_deg": 9.0, "brow_raise": 0.41, "gaze_y": 0.1})
    longer = replace(reading.placement, scale=reading.placement.scale * 1.1, shift=reading.placement.shift + 4)
    first = estimator.target_mesh(replace(reading, attributes=fine), Attributes())
    second = estimator.target_mesh(replace(reading, attributes=finer, placement=longer), Attributes())
    assert np.array_equal(first, second)
    # It stands as a crop of it would: cutting that crop again changes nothing.
    assert np.allclose(crop_from_image(first[list(FIVE)], 256), [[1, 0, 0], [0, 1, 0]], atol=0.05)


def test_a_set_roll_tilts_the_points():
    estimator = tiny_estimator()
    reading = estimator.analyze(CROP)[0]
    mesh = estimator.target_mesh(reading, Attributes(roll_deg=20.0))
    across = mesh[FIVE[1]] - mesh[FIVE[0]]
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(20, abs=3)


def test_coarse_attributes_keep_what_is_none_and_stay_in_range():
    coarse = Attributes(age=37.0, smile=0.95, gaze_x=-0.9).quantize()
    assert coarse.to_dict() == pytest.approx({"age": 40, "smile": 1.0, "gaze_x": -1.0})
    assert set(QUANTIZATION_STEP) == set(ATTRIBUTE_NAMES)


def test_a_set_yaw_turns_the_points():
    estimator = tiny_estimator()
    reading = estimator.analyze(CROP)[0]
    straight, right = (estimator.target_points(reading, Attributes(yaw_deg=yaw)) for yaw in (0.0, 30.0))
    nose, eyes = POINTS.index(1), [POINTS.index(468), POINTS.index(473)]
    assert (right[nose] - right[eyes].mean(0))[0] > (straight[nose] - straight[eyes].mean(0))[0] + 3


def test_a_saved_estimator_comes_back(tmp_path):
    estimator = tiny_estimator()
    estimator.network.save_pretrained(tmp_path / "network")
    estimator.shape.save(tmp_path / "face_shape.safetensors")
    loaded = FaceEstimator.from_pretrained(tmp_path)
    assert np.allclose(loaded.landmarks(CROP), estimator.landmarks(CROP), atol=1e-2)


def test_as_unit_maps_the_whole_range():
    unit = as_unit(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1).repeat(3, -1))
    assert unit.flatten().tolist() == [-1, 1, -1, 1, -1, 1]
