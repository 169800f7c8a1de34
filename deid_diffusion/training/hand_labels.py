"""Holds what a person saw on some of the crops, and scores estimates against it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deid_diffusion.training.data import FaceSet

HAND = Path(__file__).with_name("hand_labels.csv")
HAND_LABELLED = ("glasses", "facial_hair")  # its columns


@dataclass(frozen=True, eq=False)
class HandLabels:
    """What a person saw.

    Glasses: eyeglasses or sunglasses before the eyes; the rimless ones that generators half forget count when a bridge
    or a temple shows. Facial hair: beard, moustache or goatee; stubble that shows is 0.5, the blue of a shave is 0.

    Attributes:
        key: (N,) names of crops.
        values: for each attribute (N,) float32: 0 no, 0.5 stubble that shows, 1 yes; NaN where nobody looked.
        holdout: (N,) bool, never fitted.
    """

    key: np.ndarray
    values: dict[str, np.ndarray]
    holdout: np.ndarray

    @classmethod
    def load(cls, path: str | Path) -> HandLabels:
        """Reads the CSV.

        Raises:
            ValueError: a column is missing, or a value is no number in 0..1.
        """
        with Path(path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = {"key", "split", *HAND_LABELLED}
        if not rows or not wanted <= set(rows[0]):
            raise ValueError(
                f"{path} must have rows with {', '.join(sorted(wanted))}; got {list(rows[0]) if rows else 0}"
            )
        values = {name: np.array([float(row[name] or "nan") for row in rows], np.float32) for name in HAND_LABELLED}
        if any(((v < 0) | (v > 1)).any() for v in values.values()):
            raise ValueError(f"{path}: labels must lie in 0..1, or be empty")
        return cls(np.array([row["key"] for row in rows]), values, np.array([r["split"] == "holdout" for r in rows]))

    def rows_of(self, keys: list[str]) -> np.ndarray:
        """(N,) where each label's crop stands among the keys, -1 for none."""
        place = {key: number for number, key in enumerate(keys)}
        return np.array([place.get(key, -1) for key in self.key.tolist()])

    def leave_out(self, faces: FaceSet) -> None:
        """Sets the hold-out's weight in `faces` to 0, in place: whoever trains on it cannot measure on it."""
        rows = self.rows_of(faces.keys)
        faces.weight[torch.from_numpy(rows[self.holdout & (rows >= 0)])] = 0


def score(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Accuracy, precision, recall at 0.5 and area under the ROC curve on clear cases; the mean error of all.

    Targets of 0.5, stubble, are for the mean error alone: whoever says no to them is as right as who says yes.

    Args:
        probability: (N,) as estimated.
        target: (N,) 0, 0.5 or 1.

    Raises:
        ValueError: the clear cases are all of one kind.
    """
    plain = target != 0.5
    yes, said, p = target[plain] > 0.5, probability[plain] >= 0.5, probability[plain]
    if not yes.any() or yes.all():
        raise ValueError(f"the hold-out must hold both kinds; {yes.sum()} of {len(yes)} are yes")
    order = (p[yes][:, None] > p[~yes]) + 0.5 * (p[yes][:, None] == p[~yes])
    hits = float((yes & said).sum())
    values = {
        "accuracy": float((yes == said).mean()), "auc": float(order.mean()),
        "precision": hits / max(1, int(said.sum())), "recall": hits / int(yes.sum()),
        "mean_error": float(np.abs(probability - target).mean()),
    }  # fmt: skip
    return {name: round(value, 4) for name, value in values.items()} | {"n": len(target), "positives": int(yes.sum())}
