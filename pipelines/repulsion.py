"""Identity repulsion, and further energies: what a sample is moved down, how far, and at which steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
import torch.nn.functional as F

from .conditioning import shown
from .id_encoder import embed, shifted_views

Function = Callable[[torch.Tensor], torch.Tensor]


class Window:
    """When a rule with `scale`, `start` and `stop` acts, and how far it moves a sample each time."""

    scale: float
    start: float
    stop: float

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= 1:
            raise ValueError(f"need 0 <= start <= stop <= 1, got start={self.start}, stop={self.stop}")
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale must be >= 0 and finite, got {self.scale}; 0 switches it off")

    def steps(self, num_steps: int) -> list[int]:
        """The steps of `num_steps` (from 0) at which it acts: one at least, unless the window or the scale is 0."""
        if self.scale == 0 or self.start == self.stop:
            return []
        last = num_steps if self.stop == 1 else num_steps - 1
        steps = [step for step in range(last) if self.start <= step / num_steps < self.stop]
        return steps or [min(int(self.start * num_steps), num_steps - 1)]

    def active(self, step: int, num_steps: int) -> bool:
        """Whether it acts at a step.

        Args:
            step: its number, from 0.
            num_steps: how many there are.
        """
        return step in self.steps(num_steps)

    def step_size(self, num_steps: int) -> float:
        """Length of one guidance step at energy 1, as a fraction of the norm of the predicted noise."""
        return self.scale / 20 / max(len(self.steps(num_steps)), 1)


@dataclass(frozen=True)
class Repulsion(Window):
    """How hard to move a sample off its source, between which steps, and how far is far enough.

    Attributes:
        scale: length of all guidance steps of a run together, in units of 5 % of the norm of the predicted noise under
            the mask, for a face whose similarity to its source is 1 above `margin`, and in proportion below: 20 is one
            noise norm, the default of 30 one and a half; 0 switches it off. Fewer steps are longer ones, so that a
            scale means the same at any number.
        margin: cosine similarity to the source below which a face is left alone.
        start, stop: fractions of the denoising steps between which it acts. It acts on the last step, whose change no
            later step would turn back into skin, only if stop is 1 or the window holds no other, as with one step.
        through_unet: take the gradient through the unet (exact, about three times a plain step) instead of on the
            detached x0 (cheap).
        views: how many shifted views of x0 the identity encoder sees a step; more than one keeps the guidance from
            merely fooling one look of one network.
    """

    scale: float = 30.0
    margin: float = 0.0
    start: float = 0.0
    stop: float = 0.8
    through_unet: bool = False
    views: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.margin <= 1:
            raise ValueError(f"margin is a cosine in [-1, 1], got {self.margin}")
        if self.views < 1:
            raise ValueError(f"views must be >= 1, got {self.views}")

    def energy(self, embedding: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, D) -> (B,): how much closer than `margin` each face is to its source."""
        # A hinge, not the bare cosine: past the margin, more distance buys no privacy and costs realism.
        return F.relu(F.cosine_similarity(embedding, source, dim=-1) - self.margin)


@dataclass(frozen=True)
class Energy(Window):
    """Something else to minimise beside the repulsion, by guidance steps of its own.

    Attributes:
        function: (B, 3, S, S) x0 in [-1, 1] -> (B,) >= 0, differentiable.
        scale, start, stop, through_unet: as of `Repulsion`.
    """

    function: Function
    scale: float = 30.0
    start: float = 0.0
    stop: float = 0.8
    through_unet: bool = False


def as_repulsion(value: Repulsion | Mapping[str, Any] | None) -> Repulsion:
    """A Repulsion, a mapping of its fields ({"scale": 60.0}), or None for none -> a Repulsion.

    Raises:
        ValueError: a name that it has not, or a value that it cannot take.
    """
    if value is None:
        return Repulsion(scale=0.0)
    names = [field.name for field in fields(Repulsion)]
    if not isinstance(value, Mapping):
        # Not by class: code that was loaded from the Hub has a Repulsion of its own.
        if all(hasattr(value, name) for name in names):
            return value
        raise ValueError(
            f"repulsion must be a Repulsion, a mapping of its fields, or None, got {type(value).__name__}"
        )
    unknown = sorted(set(value) - set(names), key=str)
    if unknown:
        raise ValueError(f"repulsion takes {', '.join(names)}; got {', '.join(map(shown, unknown[:5]))}")
    try:
        return Repulsion(**value)
    except TypeError as error:
        raise ValueError(f"repulsion takes numbers, got {dict(value)}: {error}") from error


def as_energies(values: Sequence[Energy | Function]) -> list[Energy]:
    """Energies as they are, bare functions with the default scale and window."""
    return [cast("Energy", value) if hasattr(value, "function") else Energy(value) for value in values]


def repel(rule: Repulsion, id_encoder: torch.nn.Module, source: torch.Tensor) -> Energy:
    """The energy that is high while a face is like its source, averaged over shifted views.

    Args:
        rule: scale, window, margin and views.
        id_encoder: the network whose logits are the embedding.
        source: (B, D) embeddings of the sources.
    """

    def function(x0: torch.Tensor) -> torch.Tensor:
        views = shifted_views(x0.shape[-1], rule.views)
        return torch.stack([rule.energy(embed(id_encoder, x0, shift), source) for shift in views]).mean(0)

    return Energy(function, rule.scale, rule.start, rule.stop, rule.through_unet)


def attract(id_encoder: torch.nn.Module, target: torch.Tensor, scale: float = 30.0, views: int = 1) -> Energy:
    """The energy that is high while a face is unlike its target: the mirror image of `repel`.

    Args:
        id_encoder: the network whose logits are the embedding.
        target: (B, D) embeddings.
        scale: as of `Repulsion`, for a face whose similarity to its target is 0.
        views: likewise.
    """

    def function(x0: torch.Tensor) -> torch.Tensor:
        shifts = shifted_views(x0.shape[-1], views)
        return torch.stack([1 - F.cosine_similarity(embed(id_encoder, x0, s), target, dim=-1) for s in shifts]).mean(0)

    return Energy(function, scale)


def smooth(gradient: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, S, S), pixels -> (B, C, S, S) without what is finer than `sigma` pixels.

    Fine steps are seen by the one network that they came from, and the next step takes them for noise. Coarse ones,
    of the size of a brow, are shape and shade: they stay, and other recognisers see them, too.
    """
    reach = max(round(3 * sigma), 1)
    x = torch.arange(-reach, reach + 1, device=gradient.device, dtype=gradient.dtype)
    bell = torch.exp(-0.5 * (x / sigma) ** 2)
    bell = (bell / bell.sum()).view(1, 1, 1, -1).repeat(gradient.shape[1], 1, 1, 1)
    rows = F.conv2d(gradient, bell, padding=(0, reach), groups=gradient.shape[1])
    return F.conv2d(rows, bell.transpose(2, 3), padding=(reach, 0), groups=gradient.shape[1])


def guidance_step(x0: torch.Tensor, gradient: torch.Tensor, energy: torch.Tensor, noise: torch.Tensor,
                  mask: torch.Tensor, step_size: float, clamp: float = 0.5) -> torch.Tensor:  # fmt: skip
    """Moves x0 down the energy, by a length that the gradient's own size does not decide.

    The gradient of a recogniser says which way, not how far: its norm depends on the network. So the step is
    `step_size * |noise| * energy` long, all norms over the masked values (gradient normalisation as in Yu et al. 2023,
    FreeDoM, section 4.3).

    Args:
        x0, gradient, noise: (B, C, S, S); `noise` is the predicted noise.
        energy: (B,), >= 0.
        mask: (B, 1, S, S), 1 where x0 may change.
        step_size: of the step at energy 1, as a fraction of the norm of the noise.
        clamp: no value moves further than this.

    Returns:
        (B, C, S, S).
    """

    def norm(value: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm((value * mask).flatten(1), dim=1)

    factor = step_size * norm(noise) * energy / norm(gradient).clamp_min(1e-12)
    return x0 - (factor[:, None, None, None] * gradient * mask).clamp(-clamp, clamp)
