import pytest
import torch

from deid_diffusion.pipelines.conditioning import FIELDS, attribute_vector
from deid_diffusion.pipelines.sd_prompt import PHRASES, describe, encode, read_attributes, write_prompts
from tests.pipelines.sd_models import WIDTH, text_encoder, tokenizer


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "portrait photo of a person"),
        ({"age": None, "smile": None}, "portrait photo of a person"),
        ({"age": 8.0, "male": 0.1}, "portrait photo of an 8 year old girl"),
        ({"age": 60, "smile": 0.9, "gaze_x": -0.5}, "portrait photo of a 60 year old person, smiling, looking left"),
        ({"male": 0.9, "light_x": -0.5}, "portrait photo of a man, soft light from the left"),
        ({"male": 0.9, "glasses": 1.0, "facial_hair": 0.9}, "portrait photo of a man, wearing glasses, with a beard"),
        ({"glasses": 0.1, "facial_hair": 0.5}, "portrait photo of a person"),
        ({"male": 0.5, "mouth_open": 0.5}, "portrait photo of a person"),
        ({"skin_l": 35.0, "skin_b": 15.0}, "portrait photo of a person, dark skin"),
        ({"skin_l": 75.0, "skin_b": 15.0}, "portrait photo of a person, very light skin"),
        ({"skin_l": 75.0}, "portrait photo of a person"),
    ],
)
def test_attributes_become_words(values, text):
    assert describe(values) == text


def test_phrases_name_known_attributes():
    assert {name for name, _, _ in PHRASES} <= set(FIELDS)


def test_a_vector_says_what_its_mapping_says():
    rows = [{"age": 33.0, "smile": 0.8}, {}]
    assert [describe(v) for v in read_attributes(attribute_vector(rows), 2)] == [describe(v) for v in rows]


def test_one_mapping_serves_all_faces():
    assert read_attributes({"age": 20}, 3) == [{"age": 20}] * 3
    assert read_attributes(None, 2) == [{}, {}]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"hat": 1.0}, "unknown attribute 'hat'"),
        ({"age": 300.0}, "age must lie in"),
        ([{}, {}], "one mapping of attributes a face, got 2 for 1"),
        (torch.zeros(1, 3), rf"attributes must be \(1, {2 * len(FIELDS)}\), got \(1, 3\)"),
    ],
)
def test_wrong_attributes_say_so(attributes, message):
    with pytest.raises(ValueError, match=message):
        read_attributes(attributes, 1)


def test_own_words_come_first_and_stand_alone():
    assert write_prompts("oil painting", [{"smile": 1.0}, {}]) == [
        "oil painting, portrait photo of a person, smiling",
        "oil painting",
    ]
    assert write_prompts(["x", "y"], [{}, {}]) == ["x", "y"]
    with pytest.raises(ValueError, match="one a face: got 1 for 2"):
        write_prompts(["x"], [{}, {}])


def test_long_texts_are_cut_and_short_ones_filled(tmp_path):
    words, encoder = tokenizer(tmp_path), text_encoder()
    text, _ = encode(words, encoder, ["a" * 500, ""], torch.device("cpu"))
    assert text.shape == (2, 77, WIDTH)
    deep, _ = encode(words, encoder, ["a"], torch.device("cpu"), hidden=-2)
    assert deep.shape == (1, 77, WIDTH)
    assert not torch.allclose(deep, text[:1])
