"""Loads components that replace or complete a checkpoint's own, from folders and the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..faces.network import load_resnet
from .checkpoint import check_part, clearer, hash_weights

FAILURES = (OSError, ValueError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class _Part:
    """A component that comes from elsewhere: `source` is a folder or a Hub name, `below` a folder in it."""

    source: str
    place: Path  # its files on this machine
    label: str  # for reports
    below: str = ""
    revision: str = ""


def load_parts(parts: dict[str, Any], dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Parts given by name become objects; also where they came from, and the hashes of their weights.

    Args:
        parts: objects, or folders and Hub names, by component.
        dtype: precision; the identity encoder stays in float32.

    Raises:
        FileNotFoundError, ValueError: a part that cannot be found or loaded, with how to get it.
    """
    from diffusers import AutoencoderTiny, ControlNetModel

    loaders: dict[str, tuple[str, Callable[..., Any]]] = {
        "controlnet": ("ControlNetModel", partial(ControlNetModel.from_pretrained, dtype=dtype)),
        "preview_vae": ("AutoencoderTiny", partial(AutoencoderTiny.from_pretrained, dtype=dtype)),
        "id_encoder": ("ResNetForImageClassification", load_resnet),
    }
    loaded = {name: value for name, value in parts.items() if value is not None}
    labels: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for name, (kind, load) in loaders.items():
        if not isinstance(loaded.get(name), str | PathLike):
            continue
        part = _find_part(name, str(loaded[name]), kind)
        where = {"subfolder": part.below} if part.below else {}
        where |= {"revision": part.revision} if part.revision else {}
        try:
            loaded[name] = load(part.source, **where)
        except FAILURES as error:
            raise clearer(error, part.source, part.revision, what=name, needs="its weights") from error
        labels[name] = part.label
        hashes |= {f"{name}/{key[2:]}": value for key, value in hash_weights(part.place, ["."]).items()}
    return loaded, labels, hashes


def _find_part(name: str, text: str, wanted: str) -> _Part:
    """A folder, "org/name" or "org/name@revision/subfolder" -> where it is; of a repository config.json is fetched."""
    if Path(text).is_dir():
        place = Path(text).resolve()
        # A component of a checkpoint is named by the checkpoint's name.
        label = f"{place.parent.name}/{place.name}" if place.name == name else place.name
        part = _Part(text, place, label)
        check_part(place)
    else:
        from huggingface_hub import hf_hub_download

        org, _, rest = text.partition("/")
        repo, _, below = rest.partition("/")
        repo, _, pin = f"{org}/{repo}".partition("@")
        try:
            config = Path(hf_hub_download(repo, "/".join(filter(None, (below, "config.json"))), revision=pin or None))
        except (OSError, ValueError) as error:
            raise clearer(error, repo, pin, what=name, needs="its config.json") from error
        commit = config.parents[below.count("/") + bool(below)].name
        label = f"{repo}@{commit}" + (f"/{below}" if below else "")
        part = _Part(repo, config.parent, label, below, commit)
    config = part.place / "config.json"
    got = json.loads(config.read_text()) if config.is_file() else {}
    kind = got.get("_class_name") or next(iter(got.get("architectures") or ()), wanted)
    if kind != wanted:
        raise ValueError(f"{name} must be a {wanted}, got the {kind} of {part.label}; give another, or None")
    return part
