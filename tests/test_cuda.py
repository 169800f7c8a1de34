"""What only a GPU can show: `pytest -m cuda`. Nothing here ran yet on one."""

import numpy as np
import pytest
import torch

from deid_diffusion import FaceAnonymizer
from deid_diffusion.types import Outcome

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture
def portrait(astronaut) -> np.ndarray:
    return astronaut[:256, 96:352]


def test_auto_is_the_gpu_and_its_picture_is_the_cpu_s(portrait, weights):
    on_gpu = FaceAnonymizer.from_pretrained(device="auto")
    assert on_gpu.pipeline.unet.device.type == "cuda"
    assert on_gpu.pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    one = on_gpu(portrait, seed=3)
    other = FaceAnonymizer.from_pretrained(backend="torch")(portrait, seed=3)
    assert [face.outcome for face in one.faces] == [face.outcome for face in other.faces] == [Outcome.REPLACED]
    assert np.abs(one.image.astype(int) - other.image).mean() < 2


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"backend": "compile"}])
def test_half_precision_and_compilation_replace_faces_too(portrait, weights, how):
    result = FaceAnonymizer.from_pretrained(device="cuda", **how)(portrait, seed=3)
    assert [face.outcome for face in result.faces] == [Outcome.REPLACED]


def test_a_gpu_without_room_for_the_batch_gets_smaller_ones(portrait, weights):
    anonymize = FaceAnonymizer.from_pretrained(device="cuda")
    anonymize(portrait, seed=1)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (600 << 20)) / total)
    try:
        results = list(anonymize.map([portrait] * 64, seed=1, batch_size=64))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(face.outcome is not Outcome.FAILED for result in results for face in result.faces)
