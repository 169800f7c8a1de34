"""Names what came, for messages: type, shape and length, never content.

What users hand over may be a picture, a file's bytes or an embedding, and messages end in logs and reports.
"""

from __future__ import annotations

import numbers
import os
from dataclasses import fields
from enum import Enum
from typing import Any

import numpy as np

WORD = 60  # characters of a string that is shown whole: a name or a number, hardly a picture
PATH = 255  # of a path; anything longer is shown by its end, when there is such a file
ERROR = 200  # of what another library says
ROW = 8  # numbers of a list that are shown: a box, not a row of pixels


def brief(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, str):
        return repr(value) if _is_word(value, WORD) else f"a str of {len(value):,} characters"
    if isinstance(value, os.PathLike) and isinstance(os.fspath(value), str):
        return brief_path(value)
    if value is None or isinstance(value, (numbers.Number, Enum)):
        text = repr(value.value if isinstance(value, Enum) else value)
        return text if len(text) <= WORD else f"a long {type(value).__name__}"
    kind = (value if isinstance(value, type) else type(value)).__name__[:WORD]
    if isinstance(value, type):
        return kind
    if isinstance(value, (list, tuple)) and len(value) <= ROW and all(isinstance(v, numbers.Number) for v in value):
        return f"{'[' if kind == 'list' else '('}{', '.join(map(brief, value))}{']' if kind == 'list' else ')'}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{kind} of shape {tuple(shape)} {getattr(value, 'dtype', '')}".rstrip()[: 2 * WORD]
    try:
        return f"{kind} of length {len(value):,}"
    except Exception:  # what has no length, or a broken one
        return kind


def brief_path(path: Any) -> str:
    """A path as it is, or the end of a long one; of anything else what it is."""
    if not_a_path(path):
        return not_a_path(path)
    text = os.fspath(path)
    return text if len(text) <= PATH else f"...{text[-PATH // 2 :]}"


def not_a_path(path: Any) -> str:
    """What it is that can be no path (a file's bytes, a data: URL, a name longer than any); empty for a path.

    To be asked before the system is: its errors hold the whole name.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        return brief(text) if not isinstance(text, numbers.Number) else f"a {type(text).__name__}"
    # What is longer than most paths is one when it is there: base64 is full of slashes.
    if not _is_word(text, 4095) or (len(text) > PATH and not os.path.lexists(text)):
        return f"a str of {len(text):,} characters"
    return ""


def as_numbers(value: Any) -> np.ndarray | None:
    """An array of float64, or None for what is none: NumPy's own error holds the text that is no number."""
    try:
        return np.asarray(value, dtype=np.float64)
    except Exception:
        return None


def brief_repr(item: Any) -> str:
    """A dataclass without the content of its arrays: to be its `__repr__`."""
    return f"{type(item).__name__}({', '.join(f'{f.name}={brief(getattr(item, f.name))}' for f in fields(item))})"


def brief_error(error: BaseException | str) -> str:
    """What another library says, cut: some put what they were given into it."""
    text = str(error)
    return text if len(text) <= ERROR and "\\x" not in text else f"{type(error).__name__}: a long message"


def _is_word(text: str, limit: int) -> bool:
    return len(text) <= limit and text.isprintable() and not text[:5].lower() == "data:"
