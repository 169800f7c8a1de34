"""Reads who belongs to which group, so that unfairness shows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.results import EvaluationError


def read_groups(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Reads who belongs to which group.

    Args:
        path: CSV with a header and rows person,attribute,...

    Returns:
        (A,) attribute names, and person -> (A,) its group of each. An attribute with over six different numbers is
        cut into thirds: "24 to 31".

    Raises:
        EvaluationError: the file cannot be read, or is no such table.
    """
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"cannot read the groups in {path.name}: {error}") from error
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows) or len(rows[0]) < 2:
        raise EvaluationError(f"{path.name} needs a header and rows of equal length: person,attribute,...")
    columns = [_as_groups([row[i] for row in rows[1:]]) for i in range(1, len(rows[0]))]
    return tuple(rows[0][1:]), {row[0]: tuple(c[i] for c in columns) for i, row in enumerate(rows[1:])}


def _as_groups(values: list[str]) -> list[str]:
    numbers = np.array([_to_float(value) for value in values])
    known = np.isfinite(numbers)
    # A few gaps ("", "NA") do not make a column of numbers one of words.
    if known.mean() < 0.8 or len(np.unique(numbers[known])) <= 6:
        return [value or "unknown" for value in values]
    third = np.searchsorted(np.quantile(numbers[known], [1 / 3, 2 / 3]), numbers)
    names = {}
    for t in np.unique(third[known]):
        inside = numbers[known & (third == t)]
        names[t] = f"{inside.min():g} to {inside.max():g}"
    return [names[t] if k else "unknown" for t, k in zip(third, known, strict=True)]


def _to_float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")
