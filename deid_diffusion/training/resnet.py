"""Builds the small residual network that the identity encoder and the face estimator are."""

from __future__ import annotations

from transformers import ResNetConfig, ResNetForImageClassification


def build_resnet(widths: tuple[int, ...], outputs: int) -> ResNetForImageClassification:
    """A stock residual network, two blocks a stage, with random weights.

    Args:
        widths: channels of each stage.
        outputs: length of the row that its one linear head gives for each picture.
    """
    config = ResNetConfig(
        embedding_size=widths[0], hidden_sizes=list(widths), depths=[2] * len(widths), layer_type="basic",
        num_labels=outputs,
    )  # fmt: skip
    return ResNetForImageClassification(config)
