"""Identity repulsion: the energy that is high while a face still looks like its source."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Repulsion:
    """How hard to push a sample off its source, between which steps, and how far is far enough.

    Attributes:
        scale: how long all pushes of a run are together, in twentieths of the predicted noise for a face that is its
            source; 0 switches it off. Fewer steps take longer pushes, so that a scale means the same at any number.
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

    def length(self, num_steps: int) -> float:
        """Of one push among `num_steps` steps, at energy 1, in lengths of the predicted noise."""
        return self.scale / 20 / max(sum(self.active(step, num_steps) for step in range(num_steps)), 1)

    def energy(self, embedding: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, D) -> (B,): how much closer than `margin` each face is to its source."""
        # A hinge, not the bare cosine: past the margin, more distance buys no privacy and costs realism.
        return F.relu(F.cosine_similarity(embedding, source, dim=-1) - self.margin)


def smooth(gradient: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, S, S) without what is finer than `sigma` pixels.

    Fine pushes are seen by the one network that they came from, and the next step takes them for noise. Coarse ones,
    of the size of a brow, are shape and shade: they stay, and other recognisers see them, too.
    """
    reach = max(round(3 * sigma), 1)
    x = torch.arange(-reach, reach + 1, device=gradient.device, dtype=gradient.dtype)
    bell = torch.exp(-0.5 * (x / sigma) ** 2)
    bell = (bell / bell.sum()).view(1, 1, 1, -1).repeat(gradient.shape[1], 1, 1, 1)
    rows = F.conv2d(gradient, bell, padding=(0, reach), groups=gradient.shape[1])
    return F.conv2d(rows, bell.transpose(2, 3), padding=(reach, 0), groups=gradient.shape[1])


def push(x0: torch.Tensor, gradient: torch.Tensor, energy: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor,
         length: float, clamp: float = 0.5) -> torch.Tensor:  # fmt: skip
    """Moves x0 down the energy, by a length that the gradient's own size does not decide.

    The gradient of a recogniser says which way, not how far: its norm depends on the network. So the push is
    `length * |noise| * energy` long, all norms over the masked pixels (gradient normalisation as in Yu et al. 2023,
    FreeDoM, section 4.3).

    Args:
        x0, gradient, noise: (B, C, S, S); `noise` is the predicted noise.
        energy: (B,), >= 0.
        mask: (B, 1, S, S), 1 where x0 may change.
        length: of the push at energy 1, in lengths of the noise.
        clamp: no value moves further than this.
    """

    def norm(value: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm((value * mask).flatten(1), dim=1)

    factor = length * norm(noise) * energy / norm(gradient).clamp_min(1e-12)
    return x0 - (factor[:, None, None, None] * gradient * mask).clamp(-clamp, clamp)
