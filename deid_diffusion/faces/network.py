"""Loads the residual networks that the face estimator and the identity encoder are."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import ResNetForImageClassification

log = logging.getLogger(__name__)


def load_resnet(folder: str | PathLike, **where: Any) -> ResNetForImageClassification:
    """What `ResNetForImageClassification.from_pretrained` gives, in float32, without its second of preparations.

    Args:
        folder: with config.json and model.safetensors; anything else that transformers knows goes to it.
        where: for transformers: `revision`, `subfolder`.

    Raises:
        OSError, ValueError, RuntimeError: as `from_pretrained`.
    """
    from transformers import ResNetConfig, ResNetForImageClassification

    file = Path(folder) / "model.safetensors"
    if not where and file.is_file():
        try:
            config = ResNetConfig.from_json_file(Path(folder) / "config.json")
            with torch.device("meta"):
                network = ResNetForImageClassification(config)
            network.load_state_dict(_weights(file), assign=True)
            return network.eval()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            log.info("%s is left to transformers: %s", folder, type(error).__name__)  # whose messages are known
    return ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32, **where)


def _weights(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(file)
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
