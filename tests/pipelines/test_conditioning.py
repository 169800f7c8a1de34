import pytest
import torch

from deid_diffusion.pipelines.conditioning import (
    ATTRIBUTE_NAMES,
    FIELDS,
    POINTS,
    attribute_vector,
    condition_vector,
    erase,
    fold,
    landmark_maps,
    unfold,
)


def test_fold_loses_nothing():
    image = torch.rand(2, 3, 32, 32)
    assert fold(image, 4).shape == (2, 48, 8, 8)
    assert torch.equal(unfold(fold(image, 4), 4), image)


def test_points_are_distinct_facemesh_numbers():
    assert len(set(POINTS)) == len(POINTS)
    assert all(0 <= p < 478 for p in POINTS)


@pytest.mark.parametrize("name", ATTRIBUTE_NAMES)
def test_an_attribute_fills_its_value_and_its_validity_bit_only(name):
    spec = FIELDS[name]
    row = attribute_vector([{name: spec.high}])[0]
    column = ATTRIBUTE_NAMES.index(name)
    assert row[column] == pytest.approx((spec.high - spec.centre) / spec.scale)
    assert row[len(FIELDS) :].nonzero().flatten().tolist() == [column]
    row[column] = 0
    assert not row[: len(FIELDS)].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beauty": 1}, "unknown attribute 'beauty'"),
        ({"age": 200}, "age must lie in"),
        ({"smile": float("nan")}, "smile"),
    ],
)
def test_wrong_attributes_say_what_was_wanted(values, message):
    with pytest.raises(ValueError, match=message):
        attribute_vector([values])


def test_none_is_the_same_as_missing():
    assert not attribute_vector([{"age": None}]).any()


def test_identity_comes_in_unit_norm_with_its_bit():
    attributes = torch.zeros(1, 4)
    vector = condition_vector(attributes, torch.tensor([[3.0, 4.0]]), 2)
    assert vector[0, 4:6].tolist() == pytest.approx([0.6 * 2**0.5, 0.8 * 2**0.5])
    assert vector[0, 6] == 1
    assert condition_vector(attributes, None, 2)[0, 4:].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="identity must be"):
        condition_vector(attributes, torch.zeros(1, 3), 2)


def test_a_map_peaks_at_its_point_and_a_missing_point_draws_nothing():
    points = torch.tensor([[[10.0, 22.0], [float("nan"), 5.0]]])
    maps = landmark_maps(points, 32, 4)
    assert maps.shape == (1, 2, 8, 8)
    assert divmod(int(maps[0, 0].argmax()), 8) == (5, 2)  # row 5 covers y 20..24, column 2 covers x 8..12
    assert not maps[0, 1].any()


@pytest.mark.parametrize("where", ["middle", "corner", "all"])
def test_erase_never_reads_what_it_hides(where):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:50, 10:40] = 0.3 if where == "middle" else 0
    if where == "corner":
        mask[..., :30, :30] = 1
    if where == "all":
        mask[:] = 1
    other = torch.where(mask > 0, torch.rand_like(image), image)
    assert torch.equal(erase(image, mask), erase(other, mask))
    assert torch.equal(erase(image, mask) * (mask <= 0), image * (mask <= 0))
    assert torch.isfinite(erase(image, mask)).all()


def test_erase_continues_a_flat_colour():
    image = torch.full((1, 3, 64, 64), 0.4)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    assert torch.allclose(erase(image, mask), image, atol=1e-5)
