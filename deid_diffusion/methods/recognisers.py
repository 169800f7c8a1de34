"""Loads recognisers whose gradients are wanted, and shows them a crop as they take it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..faces.geometry import FIVE, fit_similarity
from ..faces.recogniser_spec import NetFormat, RecogniserError, parse_spec
from ..messages import brief_error, brief_path


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A TorchScript recogniser.

    Attributes:
        name: for the report.
        form: how its input is made.
        net: (1, 3, H, W) -> (1, D).
    """

    name: str
    form: NetFormat
    net: torch.nn.Module

    def embed(self, crop: torch.Tensor, landmarks: np.ndarray) -> torch.Tensor:
        """(1, 3, S, S) RGB levels, (478, 2) x y in its pixels -> (1, D) unit norm, differentiable."""
        side = self.form.size
        five = landmarks[list(FIVE), :2].astype(np.float64)
        scale, rotation, shift = fit_similarity(self.form.template * side, five)  # crop_from_net
        x = torch.arange(side, dtype=torch.float64) + 0.5
        grid = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)
        at = grid @ torch.from_numpy(scale * rotation).T + torch.from_numpy(shift)
        at = (at * 2 / crop.shape[-1] - 1).to(crop)[None]
        face = F.grid_sample(crop, at, mode="bilinear", padding_mode="border", align_corners=False)
        if self.form.order == "bgr":
            face = face.flip(1)
        out = self.net((face - self.form.mean) / self.form.scale)
        out = out[0] if isinstance(out, list | tuple) else out
        return F.normalize(out.float().reshape(1, -1), dim=-1)


@lru_cache(maxsize=8)
def load_recogniser(spec: str) -> Recogniser:
    """A recogniser from one line of text.

    Args:
        spec: a TorchScript file and its format, see `faces.recogniser_spec.parse_spec`.

    Raises:
        RecogniserError: no such file, no TorchScript, or no gradients.
    """
    path, form, name = parse_spec(spec)
    _check_file(path)
    try:
        net = torch.jit.load(str(path), map_location="cpu").eval()
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        found = Recogniser(name or path.name.split(".")[0], form, net)
        size = form.size
        probe = torch.full((1, 3, size, size), 127.0, requires_grad=True)
        embedding = found.embed(probe, np.zeros((478, 2)) + _spread(form, size))
        if embedding.shape[1] < 2 or torch.autograd.grad(embedding.sum(), probe, allow_unused=True)[0] is None:
            raise RecogniserError("it gives no embedding that depends on the picture")
    except Exception as error:  # TorchScript raises whatever its code does
        raise RecogniserError(
            f"{brief_path(path)}: wanted a TorchScript recogniser that takes (1, 3, {form.size}, {form.size}) and has "
            f"gradients, got: {brief_error(error)}"
        ) from error
    return found


def _check_file(path: Path) -> None:
    if path.suffix == ".onnx":
        raise RecogniserError(
            f"{brief_path(path)}: perturb needs gradients, and an ONNX file gives none; export the recogniser to "
            "TorchScript"
        )
    if not path.is_file():
        raise RecogniserError(f"{brief_path(path)}: wanted a recogniser's TorchScript file, found none")


def _spread(form: NetFormat, size: int) -> np.ndarray:
    """(478, 2) landmarks at the template's own places, so that a probe is cut as it is."""
    points = np.zeros((478, 2))
    points[list(FIVE)] = form.template * size
    return points
