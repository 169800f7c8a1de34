"""Keeps exported graphs between runs, and opens them in ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import secrets
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..weight_files import cache_dir

log = logging.getLogger(__name__)
KEPT = 3  # graphs in the cache, 50 MB each


def path_of_files(files: Mapping[str, str]) -> Path | None:
    """Where the graph of exactly these files, made by these libraries for this kind of processor, is kept.

    Args:
        files: sha256 by name; those below "unet/" count.

    Returns:
        the path; None where the unet's shape or weights are not among them.
    """
    own = {name: value for name, value in files.items() if name.startswith("unet/")}
    if "unet/config.json" not in own or not any(name.endswith(".safetensors") for name in own):
        return None
    return _named(hashlib.sha256(json.dumps(own, sort_keys=True).encode()))


def path_of_weights(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Path:
    """`path_of_files` for a unet that is no longer, or never was, what its files say.

    Args:
        config: of the unet.
        weights: its tensors, on a CPU.
    """
    # diffusers' own notes in the config ("_use_default_values") come from a set, in another order in each process.
    shape = {name: value for name, value in config.items() if not name.startswith("_")}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode())
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().data)
    return _named(digest)


def _named(digest: Any) -> Path:
    digest.update(json.dumps([version("diffusers"), *_here()]).encode())
    return cache_dir() / f"unet-{digest.hexdigest()[:32]}.onnx"


def _here() -> list[str]:
    """What an optimized graph depends on."""
    import onnxruntime

    capability = torch.backends.cpu.get_cpu_capability()
    return [torch.__version__, onnxruntime.__version__, platform.machine(), capability]


def known(path: Path) -> bytes | None:
    """A graph that an earlier run compared with torch; None for one that was not, or has changed since.

    Args:
        path: of the graph.

    Raises:
        FileNotFoundError: there is no graph.
    """
    graph = path.read_bytes()
    return graph if _note(path).is_file() and _note(path).read_text() == _agreement(graph) else None


def remember(path: Path, graph: bytes) -> None:
    """Notes that a graph agrees with torch; a folder that cannot be written to is no failure.

    Args:
        path: of the graph.
        graph: the file's bytes.
    """
    try:
        _note(path).write_text(_agreement(graph))
    except OSError as error:
        log.info("%s is compared with torch at each start: %s", path, error.strerror)


def _note(path: Path) -> Path:
    return path.with_suffix(".agrees")


def _agreement(graph: bytes) -> str:
    """What a graph was compared by."""
    return "\n".join([hashlib.sha256(graph).hexdigest(), *_here()])


def keep(path: Path, graph: bytes) -> None:
    """Writes a graph for later runs, whole or not at all, and drops the oldest; a full disk is no failure.

    Args:
        path: of the graph.
        graph: the file's bytes.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(graph)
        os.replace(part, path)
        newest = sorted(path.parent.glob("unet-*.onnx"), key=lambda file: -file.stat().st_mtime)
        for old in newest[KEPT:]:
            old.unlink(missing_ok=True)
            _note(old).unlink(missing_ok=True)
        remember(path, graph)
    except OSError as error:
        log.warning("%s cannot be kept, the next run exports again: %s", path, error.strerror)
    finally:
        try:
            part.unlink(missing_ok=True)
        except OSError:
            log.debug("%s was left behind", part)


def optimized(graph: bytes) -> bytes:
    """A graph as ONNX Runtime lays it out for this processor: to do that takes longer than to read it.

    Args:
        graph: an ONNX file's bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "graph.onnx"
        options = _options()
        options.optimized_model_filepath = str(out)
        _open(graph, options)
        return out.read_bytes()


def fresh_session(graph: bytes) -> Any:
    """Opens a graph as it was exported.

    Args:
        graph: an ONNX file's bytes.
    """
    return _open(graph, _options())


def session(graph: bytes) -> Any:
    """Opens what `optimized` gave.

    Args:
        graph: an ONNX file's bytes.
    """
    import onnxruntime

    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _open(graph, options)


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin between two calls would take the cores from torch, which runs the identity encoder there.
    for kind in ("intra", "inter"):
        options.add_session_config_entry(f"session.{kind}_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _open(graph: bytes, options: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
