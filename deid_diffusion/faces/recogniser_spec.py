"""Says in one line of text where a recogniser's file is and how its input is made from a face."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import DeidError
from .geometry import ARCFACE, OMZ_TEMPLATE

T = TypeVar("T")
TEMPLATES = {"arcface": ARCFACE, "omz": OMZ_TEMPLATE}


class RecogniserError(DeidError, ValueError):
    """No such recogniser, or one that cannot do what is wanted."""


@dataclass(frozen=True, eq=False)
class NetFormat:
    """How a recogniser's input is made from a picture.

    Attributes:
        size: side of the square input in pixels.
        order: "rgb" or "bgr".
        template: (5, 2) landmarks as fractions of the side.
        mean, scale: the net gets (pixel - mean) / scale, pixels 0..255.
        threshold: cosine from which its makers take two faces for one person; None when unknown.
    """

    size: int = 112
    order: str = "rgb"
    template: np.ndarray = field(default_factory=lambda: ARCFACE)
    mean: float = 0.0
    scale: float = 1.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr") or not 16 <= self.size <= 1024 or np.shape(self.template) != (5, 2):
            raise RecogniserError(
                "the format of a recogniser needs order rgb or bgr, size 16..1024 and a (5, 2) template, got "
                f"order={self.order!r}, size={self.size}, template {np.shape(self.template)}"
            )


# Usual preprocessing by name; `arcface` is that of InsightFace's ONNX files and their relatives.
PRESETS = {"arcface": NetFormat(mean=127.5, scale=127.5), "raw": NetFormat()}


def parse_spec(spec: str) -> tuple[Path, NetFormat, str | None]:
    """A recogniser's file, its format and its name, from one line of text as `deid eval --judge` takes it.

    Args:
        spec: `FILE[:OPTION...]` with FILE ending in .pt or .onnx and options `112` (side), `rgb` or `bgr`, `arcface`
            or `omz` (template), `mean=127.5`, `scale=127.5`, `threshold=0.4`, `name=net`, `preset=arcface` (112 rgb
            arcface mean=127.5 scale=127.5) or `preset=raw` (112 rgb arcface, pixels 0..255). An option overrides its
            preset. Where only a name or a threshold is given, the preset of an ONNX file is `arcface`; everywhere
            else it is `raw`. Without options, `FILE.json` next to it may hold the same keys, and `template` as five
            x y pairs (fractions of the side).

    Raises:
        RecogniserError: it cannot be read; whether the file exists is not looked at.
    """
    ending = next((e for e in (".onnx", ".pt") if f"{e}:" in spec or spec.endswith(e)), None)
    if ending is None:
        raise RecogniserError(f'judge must be "dlib" or FILE.pt/FILE.onnx[:OPTION...], got {spec!r}')
    stem, _, options = (f"{spec}:").rpartition(f"{ending}:")
    path, tokens = Path(stem + ending), [t for t in options.split(":") if t]
    beside = path.with_name(path.name + ".json")
    values: dict[str, Any] = _format_file(beside) if not tokens and beside.is_file() else dict(map(_option, tokens))
    name = values.pop("name", None)
    usual = "arcface" if ending == ".onnx" and not set(values) - {"threshold"} else "raw"
    base = _named(values.pop("preset", usual), "preset", PRESETS)
    template = values.pop("template", base.template)
    if isinstance(template, str):
        template = _named(template, "template", TEMPLATES)
    try:
        form = replace(base, template=np.array(template, dtype=np.float64), **values)
    except TypeError as error:
        raise RecogniserError(f"unknown key in the format of {path.name}: {error}") from error
    return path, form, name


def _named(name: str, what: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise RecogniserError(f"{what} must be one of {', '.join(sorted(known))}, got {name!r}")
    return known[name]


def _format_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecogniserError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise RecogniserError(f"{path.name} must hold an object of format keys, got {type(values).__name__}")
    return values


def _option(token: str) -> tuple[str, str | float | int]:
    key, _, value = token.partition("=")
    if not value:
        kind = "size" if key.isdigit() else "order" if key in ("rgb", "bgr") else "template"
        return kind, int(key) if kind == "size" else key
    if key in ("name", "preset"):
        return key, value
    try:
        return key, float(value)
    except ValueError as error:
        raise RecogniserError(f"judge option {key} needs a number, got {value!r}") from error
