"""Loads the embedded model without diffusers and transformers, whose imports take longer than a picture.

ONNX Runtime runs the unet; what is left is the identity encoder and a schedule. Whoever wants the diffusers pipeline
gets it, then: `whole`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..faces.network import ResNet, load_network
from ..pipelines.inpainter import FaceInpainter
from ..weight_files import check_hashes, weights_dir
from . import graphs
from .backends import OnnxForward, use_backend
from .checkpoint import check_weights, find_checkpoint
from .flow_schedule import FlowSchedule
from .loading import Loaded, check_identities, load_with_identities
from .registry import FAMILIES

log = logging.getLogger(__name__)
_PARTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "id_encoder": ["transformers", "ResNetForImageClassification"],
}
_SAME = {"pipeline": "face256", "dtype": "float32"}  # that may be given, as this is what it would be without


class QuickPipeline(FaceInpainter):
    """Does what `FaceInpaintPipeline` does, to the bit, and is none: it has no diffusers around it.

    It hands over tensors: `output_type` "latent", and `return_dict` False or an import of diffusers.
    """

    detail = None
    _execution_device = torch.device("cpu")

    def __init__(
        self, unet: GraphUnet, scheduler: FlowSchedule, id_encoder: ResNet, fold_factor: int, build: Callable[[], Any]
    ) -> None:
        """Takes finished parts.

        Args:
            unet, scheduler, id_encoder, fold_factor: as `FaceInpaintPipeline` takes them.
            build: loads that pipeline from the same files.
        """
        self.unet, self.scheduler, self.id_encoder, self._build = unet, scheduler, id_encoder, build
        self.config = SimpleNamespace(fold_factor=fold_factor)
        self._whole: Any = None

    def whole(self) -> Any:
        """The `FaceInpaintPipeline` of the same weights, its unet run by the same session; one for all who ask."""
        if self._whole is None:
            pipe = self._build()
            pipe.unet.forward = OnnxForward(pipe.unet.forward, self.unet.forward.session)
            self._whole = pipe
        return self._whole

    @contextmanager
    def progress_bar(self, total: int) -> Iterator[Any]:
        """No bar."""
        yield SimpleNamespace(update=lambda: None)

    def maybe_free_model_hooks(self) -> None:
        """Nothing moves between devices here."""


class GraphUnet:
    """The unet, run by ONNX Runtime; what that cannot do is done by torch, which is loaded for it."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, config: Mapping[str, Any], session: Any, torch_forward: Callable[..., Any]) -> None:
        """Takes a graph.

        Args:
            config: as in config.json.
            session: with its graph.
            torch_forward: of the unet in torch.
        """
        self.config, self.forward = SimpleNamespace(**config), OnnxForward(torch_forward, session)

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        """As `UNet2DConditionModel.forward`."""
        return self.forward(*inputs, **more)


def load_quick(
    model: str | PathLike | None, device: str, backend: str, id_encoder: Any = None, **given: Any
) -> tuple[Loaded, Path] | None:
    """`loading.load_with_identities` of the embedded model for a CPU, with the backend in its origin.

    Args:
        model: folder, or None for the shipped one.
        device, backend: see `AnonymizerSpec`.
        id_encoder, given: what else was asked for, see there.

    Returns:
        None where it takes diffusers: another checkpoint, device, precision or backend, parts from elsewhere, or no
        graph yet that was exported and compared with torch by an earlier run.

    Raises:
        FileNotFoundError, ValueError: damaged or missing weights, as `load_with_identities`.
    """
    fits = device == "cpu" and backend in ("auto", "onnx") and id_encoder is None and given.items() <= _SAME.items()
    folder = weights_dir("face256") if model is None else Path(model)
    if not fits or not _is_folder(folder):
        return None
    checkpoint = find_checkpoint(folder)
    names = {name: part for name, part in checkpoint.index.items() if isinstance(part, list) and part[0]}
    if checkpoint.index.get("_class_name") != FAMILIES["face256"].pipeline or names != _PARTS:
        return None
    check_weights(folder, checkpoint.index, remedy=checkpoint.remedy)
    check_identities(folder, checkpoint.remedy)
    hashes = check_hashes(folder)
    try:
        import onnxruntime

        path = graphs.path_of_files(hashes)
        graph = None if path is None else graphs.known(path)
        if graph is None:
            return None
        pipe = _assembled(folder, checkpoint.index.get("fold_factor", 4), graph, lambda: _build(folder))
    except Exception as error:
        log.info("the embedded model is left to diffusers: %s", error)  # whose messages are known
        return None
    origin = {"pipeline": "face256", "model": checkpoint.name, "revision": "", "dtype": "float32"}
    origin["backend"] = f"onnxruntime {onnxruntime.__version__}"
    return Loaded(pipe, checkpoint, origin, hashes), folder


def _is_folder(path: Path) -> bool:
    """False for what cannot be one, too, such as a picture given as text: the full path says so in its own words."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _assembled(folder: Path, fold_factor: int, graph: bytes, build: Callable[[], Any]) -> QuickPipeline:
    def torch_forward(*inputs: Any, **more: Any) -> Any:
        return pipe.whole().unet.forward.torch_forward(*inputs, **more)

    unet = GraphUnet(_json(folder / "unet/config.json"), graphs.session(graph), torch_forward)
    scheduler = FlowSchedule(_json(folder / "scheduler/scheduler_config.json"))
    id_encoder = load_network(folder / "id_encoder")
    return (pipe := QuickPipeline(unet, scheduler, id_encoder, fold_factor, build))


def _build(folder: Path) -> Any:
    pipe = load_with_identities(folder)[0].pipe
    pipe.set_progress_bar_config(disable=True)
    use_backend(pipe, "torch")
    return pipe


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
