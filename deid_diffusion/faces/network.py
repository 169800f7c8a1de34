"""Loads the residual networks that the face estimator and the identity encoder are."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import ResNetForImageClassification

log = logging.getLogger(__name__)
# What ResNet does, of the configurations that transformers knows.
_PLAIN = {"layer_type": "basic", "hidden_act": "relu", "downsample_in_first_stage": False}
_SHAPE = ("num_channels", "embedding_size", "hidden_sizes", "depths")


@dataclass(frozen=True, eq=False)
class ResNetOutput:
    """What a residual network says.

    Attributes:
        logits: (B, D).
        hidden_states: after the stem and after each stage, (B, C, h, w) each; None where nobody asked.
    """

    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None = None


class ResNet(nn.Module):
    """transformers' `ResNetForImageClassification` of basic layers: its weights by its names, its outputs to the bit.

    For those who run it only: to import transformers' takes longer than all that is done with it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Takes a shape.

        Args:
            config: as in config.json.

        Raises:
            ValueError: one of another kind.
            KeyError: not all of it is there.
        """
        if any(config.get(name, plain) != plain for name, plain in _PLAIN.items()):
            raise ValueError(f"wanted a residual network of {_PLAIN}")
        super().__init__()
        shape = {name: config[name] for name in _SHAPE}
        self.config = SimpleNamespace(**shape, num_labels=len(config.get("id2label", (0, 1))))  # two are not written
        widths, stem = self.config.hidden_sizes, self.config.embedding_size
        stages = zip([stem, *widths], widths, self.config.depths)  # noqa: B905  (one more of the first)
        self.resnet = nn.ModuleDict()
        self.resnet["embedder"] = nn.ModuleDict({"embedder": _Convolution(self.config.num_channels, stem, 7, 2)})
        self.resnet["encoder"] = nn.ModuleDict(
            {"stages": nn.ModuleList(_stage(n, *one) for n, one in enumerate(stages))}
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1], self.config.num_labels))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.classifier[1].weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        return self.classifier[1].weight.dtype

    def forward(self, images: torch.Tensor, output_hidden_states: bool = False) -> ResNetOutput:
        """(B, 3, S, S) -> logits.

        Args:
            images: (B, 3, S, S).
            output_hidden_states: whether the states on the way are wanted, too.
        """
        state = nn.functional.max_pool2d(self.resnet["embedder"]["embedder"](images).relu(), 3, 2, 1)
        states = [state]
        for stage in self.resnet["encoder"]["stages"]:
            for layer in stage["layers"]:
                state = layer(state)
            states.append(state)
        pooled = nn.functional.adaptive_avg_pool2d(state, (1, 1))
        return ResNetOutput(self.classifier(pooled), tuple(states) if output_hidden_states else None)


class _Convolution(nn.Module):
    def __init__(self, before: int, after: int, side: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
        self.normalization = nn.BatchNorm2d(after)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.normalization(self.convolution(state))


class _Layer(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else _Convolution(before, after, 1, stride)
        self.layer = nn.Sequential(_Convolution(before, after, stride=stride), _Convolution(after, after))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        changed = self.layer[1](self.layer[0](state).relu())
        return (changed + self.shortcut(state)).relu()


def _stage(number: int, before: int, after: int, depth: int) -> nn.ModuleDict:
    first = _Layer(before, after, 2 if number else 1)
    return nn.ModuleDict({"layers": nn.Sequential(first, *(_Layer(after, after, 1) for _ in range(depth - 1)))})


def load_network(folder: str | PathLike) -> nn.Module:
    """A residual network to be run, in float32: a `ResNet`, or transformers' own where it is of another shape.

    Args:
        folder: with config.json and model.safetensors.

    Raises:
        OSError, ValueError, RuntimeError: as transformers' `from_pretrained`.
    """
    place = Path(folder)
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            network = ResNet(config)
        network.load_state_dict(_weights(place / "model.safetensors"), assign=True)
        return network.eval()
    except Exception as error:
        log.info("%s is left to transformers: %s", place.name, type(error).__name__)  # whose messages are known
    return load_resnet(folder)


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
