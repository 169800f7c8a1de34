"""Residual networks run by ONNX Runtime say what torch says, and give gradients all the same."""

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from deid_diffusion.models.resnet_graph import graphed

pytest.importorskip("onnxruntime")
SIDE = 32


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    return ResNetForImageClassification(config).eval()


@pytest.fixture(scope="module")
def quick(network):
    return graphed(network, SIDE)


@torch.no_grad()
def test_it_says_what_torch_says_of_any_batch(network, quick):
    images = torch.randn(3, 3, SIDE, SIDE)
    wanted, got = network(images, output_hidden_states=True), quick(images, output_hidden_states=True)
    assert torch.allclose(got.logits, wanted.logits, atol=1e-4)
    assert [one.shape for one in got.hidden_states] == [one.shape for one in wanted.hidden_states]
    assert quick(images).hidden_states is None
    assert quick.forward is not network.forward
    assert not quick.training


def test_gradients_are_torchs(network, quick):
    images = torch.randn(1, 3, SIDE, SIDE, requires_grad=True)
    quick(images).logits.sum().backward()
    assert images.grad.abs().max() > 0


def test_what_it_cannot_run_is_left_as_it_is(network):
    half = ResNetForImageClassification(network.config).half()
    assert graphed(half, SIDE) is half
