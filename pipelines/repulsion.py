"""Identity repulsion: the energy that is high while a face still looks like its source."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Repulsion:
    """How hard to push a sample off its source, between which steps, and how far is far enough.

    Attributes:
        scale: weight of the push in units of predicted noise; 0 switches it off.
        margin: cosine similarity to the source below which a face is left alone.
        start, stop: fractions of the denoising steps between which it acts. It never acts on the last step, whose
            push no later step would turn back into skin, unless stop is 1.
        through_unet: take the gradient through the unet (exact, about three times a plain step) instead of on the
            detached x0 (cheap).
        views: how many shifted views of x0 the recogniser sees a step; more than one keeps the push from merely
            fooling one look of one network.
    """

    scale: float = 30.0
    margin: float = 0.0
    start: float = 0.0
    stop: float = 0.8
    through_unet: bool = False
    views: int = 1

    def __post_init__(self):
        if not 0 <= self.start <= self.stop <= 1:
            raise ValueError(f"need 0 <= start <= stop <= 1, got start={self.start}, stop={self.stop}")
        if self.scale < 0:
            raise ValueError(f"scale must be >= 0, got {self.scale}; 0 switches repulsion off")
        if not -1 <= self.margin <= 1:
            raise ValueError(f"margin is a cosine in [-1, 1], got {self.margin}")
        if self.views < 1:
            raise ValueError(f"views must be >= 1, got {self.views}")

    def active(self, step: int, num_steps: int) -> bool:
        """Whether step `step` (from 0) of `num_steps` lies in the window."""
        if step == num_steps - 1 and self.stop < 1:
            return False
        return self.scale > 0 and self.start <= step / num_steps < self.stop

    def energy(self, embedding: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, D) -> (B,): how much closer than `margin` each face is to its source."""
        # A hinge, not the bare cosine: past the margin, more distance buys no privacy and costs realism.
        return F.relu(F.cosine_similarity(embedding, source, dim=-1) - self.margin)


def push(x0: torch.Tensor, gradient: torch.Tensor, energy: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor,
         scale: float, clamp: float = 0.25) -> torch.Tensor:  # fmt: skip
    """Moves x0 down the energy, by a length that the gradient's own size does not decide.

    The gradient of a recogniser says which way, not how far: its norm depends on the network. So the step is
    `scale / 1000 * |noise| * energy` long, all norms over the masked pixels (gradient normalisation as in Yu et al.
    2023, FreeDoM, section 4.3).

    Args:
        x0, gradient, noise: (B, C, S, S); `noise` is the predicted noise.
        energy: (B,), >= 0.
        mask: (B, 1, S, S), 1 where x0 may change.
        scale: length of the push at energy 1, in thousandths of the noise.
        clamp: no value moves further than this.
    """

    def norm(value: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm((value * mask).flatten(1), dim=1)

    length = scale / 1000 * norm(noise) * energy / norm(gradient).clamp_min(1e-12)
    return x0 - (length[:, None, None, None] * gradient * mask).clamp(-clamp, clamp)
