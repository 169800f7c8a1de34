"""Says how unlike photos a face is: how far the face estimator's features of it lie from those of many photos.

A Gaussian fitted to features tells what belongs to them (Lee et al. 2018, "A simple unified framework for detecting
out-of-distribution samples", eq. 2). The middle of the network sees shades and edges, and so drawn brows and hard
contrast; its ends see colours and people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

FILE = "ood_score.safetensors"
STAGES = (2, 3)  # of the hidden states: after the second and the third stage
SMOOTH = 0.02  # of the mean variance is added to each: directions that hardly vary in photos say little


def no_face(ood_score: float) -> str:
    """Why what was detected is hidden and gets no new face, for the report."""
    return f"may be no face: {ood_score:.2f} times as far from photos of faces as those are"


@dataclass(frozen=True, eq=False)
class OODScore:
    """Fitted by `deid train pack`.

    Attributes:
        means: for each stage (C,) float32, of the features.
        whiten: for each stage (C, C) float32, after which they have unit variance every way.
    """

    means: tuple[torch.Tensor, ...]
    whiten: tuple[torch.Tensor, ...]

    @classmethod
    def fit(cls, rows: Sequence[torch.Tensor]) -> OODScore:
        """(N, C) features of photos for each stage; N well above C."""
        means, whiten = [], []
        for found in rows:
            found = found.double()
            variance, axes = torch.linalg.eigh(torch.cov(found.T))
            means.append(found.mean(0).float())
            whiten.append((axes / (variance + SMOOTH * variance.mean()).sqrt()).float())
        return cls(tuple(means), tuple(whiten))

    @classmethod
    def load(cls, path: Path) -> OODScore:
        """Reads `ood_score.safetensors`."""
        from safetensors.torch import load_file

        arrays = {name: value.float() for name, value in load_file(path).items()}
        return cls(
            tuple(arrays[f"mean_{n}"] for n in range(len(STAGES))),
            tuple(arrays[f"whiten_{n}"] for n in range(len(STAGES))),
        )

    def save(self, path: Path) -> None:
        """Writes half precision safetensors."""
        from safetensors.torch import save_file

        arrays = {f"mean_{n}": mean for n, mean in enumerate(self.means)}
        arrays |= {f"whiten_{n}": whiten for n, whiten in enumerate(self.whiten)}
        save_file({name: value.half().contiguous() for name, value in arrays.items()}, path)

    def ood_score(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """All hidden states of the face estimator -> (B,): about 1 for photos, more the less a face is like one."""
        rows = zip(pooled(states), self.means, self.whiten, strict=True)
        return torch.stack([((found - mean) @ whiten).square().mean(1).sqrt() for found, mean, whiten in rows]).mean(0)


def pooled(states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """All hidden states (B, C, h, w) of the face estimator -> (B, C) float32 for each of `STAGES`, on the CPU."""
    return [states[stage].float().mean((2, 3)).cpu() for stage in STAGES]
