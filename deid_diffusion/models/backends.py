"""Chooses what runs the embedded unet: torch, torch.compile, or ONNX Runtime on a CPU."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DeidError
from ..messages import brief
from . import graphs

log = logging.getLogger(__name__)
BACKENDS = ("auto", "torch", "compile", "onnx")
TOLERANCE = 1e-3  # of the unet's output, in units of its own standard deviation of about 1
_NAMES = ("sample", "level", "condition")


class BackendError(DeidError, RuntimeError):
    """A backend cannot run this pipeline here; says why, and what to do."""


def use_backend(
    pipe: Any, backend: str = "auto", compiler: str = "inductor", files: Mapping[str, str] | None = None
) -> str:
    """Makes a pipeline's unet run by a backend, in place. Its config, device, dtype and gradients stay torch's.

    Args:
        pipe: on its device already.
        backend: "torch"; "compile" for torch.compile, meant for CUDA; "onnx" for ONNX Runtime, which runs the
            embedded model in float32 on a CPU, where no gradient is asked for; "auto" for "onnx" where it works, else
            "torch" with the reason in the log.
        compiler: of torch.compile.
        files: sha256 by name of the files that the unet was loaded from, as it is; None for one of other origin.

    Returns:
        the backend in use with its version, for reports: "onnxruntime 1.20.0", "torch 2.6.0".

    Raises:
        ValueError: no such backend.
        BackendError: one that was named cannot run this pipeline; never with "auto" or "torch".
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {brief(backend)}")
    if backend == "compile":
        return _use_compiled(pipe, compiler)
    if backend != "torch":
        try:
            return _use_onnx(pipe, files)
        except Exception as error:
            if backend == "onnx":
                raise error if isinstance(error, BackendError) else BackendError(f"ONNX Runtime: {error}") from error
            # A package that was never asked for is no news; one that is there and fails is.
            log.log(logging.INFO if isinstance(error, BackendError) else logging.WARNING, "torch is used: %s", error)
    return f"torch {torch.__version__}"


class OnnxForward:
    """Stands in for the `forward` of a UNet2DConditionModel, and hands what it cannot do to torch."""

    def __init__(self, torch_forward: Callable[..., Any], session: Any):
        """Takes both ways.

        Args:
            torch_forward: the unet's own, which gradients still go through.
            session: of ONNX Runtime, with the unet's graph.
        """
        self.torch_forward, self.session = torch_forward, session

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: Any,
        encoder_hidden_states: Any = None,
        class_labels: Any = None,
        **more: Any,
    ) -> Any:
        """As `UNet2DConditionModel.forward`; the pipeline's own call, without gradients, goes through the graph."""
        ours = (
            encoder_hidden_states is None
            and more == {"return_dict": False}
            and isinstance(timestep, torch.Tensor)
            and timestep.shape == sample.shape[:1]
            and all(_is_plain(tensor) for tensor in (sample, timestep, class_labels))
        )
        if not ours:
            return self.torch_forward(sample, timestep, encoder_hidden_states, class_labels=class_labels, **more)
        feeds = dict(zip(_NAMES, (_array(t) for t in (sample, timestep, class_labels)), strict=True))
        return (torch.from_numpy(self.session.run(None, feeds)[0]),)


def _is_plain(tensor: Any) -> bool:
    if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        return False
    return not (tensor.requires_grad and torch.is_grad_enabled())


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def _use_compiled(pipe: Any, compiler: str) -> str:
    pipe.unet.compile(backend=compiler)
    if hasattr(pipe, "identity_dim"):
        # It compiles at the first call. Then a missing compiler would cost faces; now it costs a message.
        try:
            with torch.no_grad():
                pipe.unet(*_example(pipe.unet, 1), return_dict=False)
        except Exception as error:
            pipe.unet._compiled_call_impl = None
            raise BackendError(f"torch.compile failed: {error}; take backend='torch'") from error
    return f"torch {torch.__version__}, compiled by {compiler}"


def _use_onnx(pipe: Any, files: Mapping[str, str] | None) -> str:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"onnxruntime is missing ({error}); pip install onnxruntime onnx onnxscript") from error
    unet = pipe.unet
    if not hasattr(pipe, "identity_dim"):
        raise BackendError(
            f"ONNX Runtime runs the embedded model only, got {type(pipe).__name__}; take backend='torch'"
        )
    if unet.device.type != "cpu" or unet.dtype != torch.float32:
        raise BackendError(
            f"ONNX Runtime runs float32 on a CPU, got {str(unet.dtype)[6:]} on {unet.device}; take backend='torch'"
        )
    if isinstance(unet.forward, OnnxForward):
        return f"onnxruntime {onnxruntime.__version__}"
    path = graphs.path_of_files(files or {}) or graphs.path_of_weights(unet.config, unet.state_dict())
    forward = _from_cache(unet, path)
    if forward is None:
        log.info("exporting the unet for ONNX Runtime, once: %s", path)
        graph = graphs.optimized(export(unet))
        forward = _checked(unet, graph)
        graphs.keep(path, graph)
    unet.forward = forward
    return f"onnxruntime {onnxruntime.__version__}"


def _from_cache(unet: torch.nn.Module, path: Path) -> OnnxForward | None:
    """What an earlier run exported; None when there is none that is whole and right.

    torch's own forward takes longer than all else of a start: a graph is compared with it once, and from then on known
    by its hash.
    """
    try:
        graph = graphs.known(path)
        if graph is not None:
            return OnnxForward(unet.forward, graphs.session(graph))
        graph = path.read_bytes()
        forward = _checked(unet, graph)
        graphs.remember(path, graph)
        return forward
    except FileNotFoundError:
        return None
    except Exception as error:
        log.warning("%s is not usable and is made anew: %s", path, error)
        return None


def _checked(unet: torch.nn.Module, graph: bytes) -> OnnxForward:
    """The graph as a forward, once it was seen to agree with torch."""
    forward, inputs = OnnxForward(unet.forward, graphs.session(graph)), _example(unet, 1)
    with torch.no_grad():
        wanted = forward.torch_forward(*inputs, return_dict=False)[0]
        got = forward(*inputs, return_dict=False)[0]
    apart = (got - wanted).abs().max().item() if got.shape == wanted.shape else float("nan")
    if not apart <= TOLERANCE:
        raise ValueError(f"the graph must agree with torch to {TOLERANCE:g}, they are {apart:g} apart")
    return forward


def export(unet: torch.nn.Module) -> bytes:
    """The unet as an ONNX graph: (B, C, S, S), (B,) and (B, V) float32 -> (B, O, S, S), for any B."""
    batch = {name: {0: "batch"} for name in (*_NAMES, "out")}
    sample, level, _, condition = _example(unet, 2)
    out = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, on branches that depend on the configuration alone
        # The tracing exporter takes seconds and the dynamo one more than a minute, for graphs that run equally fast.
        torch.onnx.export(
            _Call(unet), (sample, level, condition), out, input_names=list(_NAMES), output_names=["out"],
            dynamic_axes=batch, opset_version=17, dynamo=False,
        )  # fmt: skip
    return out.getvalue()


class _Call(torch.nn.Module):
    """The pipeline's call, with tensors only."""

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, sample: torch.Tensor, level: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.unet(sample, level, None, condition, return_dict=False)[0]


def _example(unet: torch.nn.Module, batch: int) -> tuple[Any, ...]:
    """Arguments of the right shapes, always the same: sample, level, nothing, condition."""
    config, generator = unet.config, torch.Generator().manual_seed(0)
    sample = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    condition = torch.randn(batch, config.projection_class_embeddings_input_dim, generator=generator)
    level = torch.linspace(700, 300, batch)
    return (
        *(value.to(unet.device, unet.dtype) for value in (sample, level)),
        None,
        condition.to(unet.device, unet.dtype),
    )
