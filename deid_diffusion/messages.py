"""Names what came, for messages: type, shape and length, never content.

What users hand over may be a picture, a file's bytes or an embedding, and messages end in logs and reports.
"""

from __future__ import annotations

import numbers
import os
import re
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
WORD = 60  # characters of a string that is shown whole: a name or a number, hardly a picture
PATH = 255  # characters of a path that is shown whole; of a longer one its end
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
    kind = type(value).__name__
    if isinstance(value, (list, tuple)) and len(value) <= ROW and all(isinstance(v, numbers.Number) for v in value):
        return f"{'[' if kind == 'list' else '('}{', '.join(map(brief, value))}{']' if kind == 'list' else ')'}"
    return _kind(value)


def _kind(value: Any) -> str:
    """Type, and shape or length."""
    if isinstance(value, type):
        return value.__name__[:WORD]
    kind, shape = type(value).__name__[:WORD], getattr(value, "shape", None)
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
        return _kind(text)
    name = max(map(len, text.encode(errors="surrogateescape").split(b"/")))
    sound = len(text) < 4096 and name < 256 and not _CONTROL.search(text) and not _is_url(text)
    if sound and len(text) > PATH:
        # What is longer than most paths is one when it begins like one: base64 is full of slashes, too.
        sound = os.path.lexists(os.path.join(*Path(text).parts[: 1 + Path(text).is_absolute()]))
    return "" if sound else f"a str of {len(text):,} characters"


def as_numbers(value: Any) -> np.ndarray | None:
    """A float64 array of any shape, or None for what is none: NumPy's own error holds the text that is no number."""
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
    return len(text) <= limit and text.isprintable() and not _is_url(text)


def _is_url(text: str) -> bool:
    return text[:5].lower() == "data:"
