"""Names what came, for messages: type, shape and length, never content.

What users hand over may be a picture, a file's bytes or an embedding, and messages end in logs and reports.
"""

from __future__ import annotations

import numbers
import os
from enum import Enum
from typing import Any

WORD = 60  # characters of a string that is shown whole: a name or a number, hardly a picture
PATH = 255  # of a path; anything longer is shown by its end, when there is such a file
ERROR = 200  # of what another library says
ROW = 8  # numbers of a list that are shown: a box, not a row of pixels


def brief(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, str):
        return repr(value) if _is_word(value, WORD) else f"a str of {len(value):,} characters"
    if isinstance(value, os.PathLike):
        return brief_path(value)
    if value is None or isinstance(value, (numbers.Number, Enum)):
        text = repr(value.value if isinstance(value, Enum) else value)
        return text if len(text) <= WORD else f"a long {type(value).__name__}"
    kind = type(value).__name__[:WORD]
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
    """A path as it is; the end of a long one; and of what is no path (a data: URL, a file's text) its length."""
    if not isinstance(path, (str, os.PathLike)):
        return brief(path)
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not _is_word(text, 4095) or len(text) > PATH and not os.path.exists(text):
        # The start of a name too long is shown when it is one name: no picture fits into what is left of it.
        return f"a {type(text).__name__} of {len(text):,} {'characters' if isinstance(text, str) else 'bytes'}"
    return text if len(text) <= PATH else f"...{text[-PATH // 2 :]}"


def brief_error(error: BaseException | str) -> str:
    """What another library says, cut: some put what they were given into it."""
    text = str(error)
    return text if len(text) <= ERROR and "\\x" not in text else f"{type(error).__name__}: a long message"


def _is_word(text: str, limit: int) -> bool:
    return len(text) <= limit and text.isprintable() and not text[:5].lower() == "data:"
