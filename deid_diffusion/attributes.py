"""Reads landmarks and non-identity attributes from a crop, and lets people set them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from .face_shape import EXPRESSION_NAMES, FaceShape, angles_from_rotation, read_expression, rotation_from_angles
from .light import LIGHT_NAMES, read_light
from .pipelines.conditioning import FIELDS, POINTS

if TYPE_CHECKING:
    from transformers import ResNetForImageClassification

SIDE = 128  # px, what the reader sees
LANDMARKS = 478
OUTPUTS = LANDMARKS * 3 + 1 + 1 + 7
HAPPY = 1


@dataclass(frozen=True, eq=False)
class ReaderOutputs:
    """The reader's head, cut into its parts.

    Attributes:
        landmarks: (B, 478, 3) x y z in units of the crop's side.
        age: (B,) years. Stored scaled; see `split_outputs`.
        male: (B,) logit.
        expression: (B, 7) logits: neutral happy sad angry fearful disgusted surprised.
    """

    landmarks: torch.Tensor
    age: torch.Tensor
    male: torch.Tensor
    expression: torch.Tensor


def split_outputs(logits: torch.Tensor) -> ReaderOutputs:
    """(B, 1443) -> its parts."""
    points, age, male, expression = logits.split([LANDMARKS * 3, 1, 1, 7], dim=-1)
    return ReaderOutputs(points.view(-1, LANDMARKS, 3), 35 + 20 * age[:, 0], male[:, 0], expression)
