"""Runs the small residual networks in ONNX Runtime, in a third of torch's time: of clips they read every frame."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from . import graphs

log = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of the largest number that a network gives


def graphed(network: Any, side: int) -> Any:
    """A copy of a residual network that shares its weights, and is run by ONNX Runtime where no gradient is asked for.

    Args:
        network: `ResNetForImageClassification` or what does the same, in float32 on a CPU.
        side: of the (B, 3, S, S) images it is shown.

    Returns:
        the copy; the network itself where ONNX Runtime cannot run it, with the reason in the log.
    """
    try:
        forward = GraphForward(network, side)
    except Exception as error:
        log.info("a residual network is left to torch: %s", error)
        return network
    other = copy.copy(network)
    other.forward = forward
    return other


class GraphForward:
    """Stands in for the `forward` of a residual network, and hands what it cannot do to torch."""

    def __init__(self, network: Any, side: int) -> None:
        """Exports the network, and compares what runs with what it was.

        Args:
            network, side: as in `graphed`.

        Raises:
            ValueError: another device or precision, or a graph that does not agree with torch.
            ImportError: no ONNX Runtime.
        """
        kind = next(network.parameters())
        if kind.device.type != "cpu" or kind.dtype != torch.float32:
            raise ValueError(f"wanted float32 on a CPU, got {str(kind.dtype)[6:]} on {kind.device}")
        self.torch_forward = network.forward
        example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = _Call(network)(example)
            self._session = graphs.fresh_session(_export(network, example))
            got = self(example, output_hidden_states=True)
        for one, other in zip((got.logits, *got.hidden_states), wanted, strict=True):
            apart = (one - other).abs().max() / other.abs().max().clamp_min(1e-6)
            if not apart <= TOLERANCE:
                raise ValueError(f"the graph must agree with torch to {TOLERANCE:g}, they are {float(apart):g} apart")

    def __call__(self, images: torch.Tensor, output_hidden_states: bool = False, **more: Any) -> Any:
        """As the network's own: logits (B, D), and hidden_states if they are wanted.

        Args:
            images: (B, 3, S, S) in [-1, 1].
            output_hidden_states: whether the states of all stages are wanted.
            more: whatever else a caller gives is left to torch.
        """
        if more or (torch.is_grad_enabled() and images.requires_grad) or images.dtype != torch.float32:
            return self.torch_forward(images, output_hidden_states=output_hidden_states, **more)
        names = None if output_hidden_states else ["logits"]
        arrays = self._session.run(names, {"images": np.ascontiguousarray(images.detach().numpy())})
        logits, *states = (torch.from_numpy(array) for array in arrays)
        return SimpleNamespace(logits=logits, hidden_states=tuple(states) or None)


class _Call(torch.nn.Module):
    """The network's call, with tensors only."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.network(images, output_hidden_states=True)
        return out.logits, *out.hidden_states


def _export(network: Any, example: torch.Tensor) -> bytes:
    """The network as an ONNX graph, for any batch."""
    out, states = io.BytesIO(), _Call(network).eval()
    names = ["logits", *(f"state{number}" for number in range(len(states(example)) - 1))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, on branches that depend on the configuration alone
        torch.onnx.export(
            states, (example,), out, input_names=["images"], output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ("images", *names)}, opset_version=17, dynamo=False,
        )  # fmt: skip
    return out.getvalue()
