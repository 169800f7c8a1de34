"""Draws seeds from the system, and derives others from them: never from pixels."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

from .messages import brief

BITS = 63  # what every generator takes; too many to try them all against a published picture


def checked_seed(seed: int | None) -> int:
    """The seed itself; one that the system draws where there is none.

    Args:
        seed: from 0 on, or None.

    Raises:
        ValueError: no seed.
    """
    if seed is None:
        return secrets.randbits(BITS)
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, or None to draw one, got {brief(seed)}")
    return int(seed)


def derived_seed(*parts: int | str) -> int:
    """63 bits that follow from a seed and what it is for; whoever finds them out knows nothing of the others.

    Args:
        parts: the seed first, then names and numbers.
    """
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big") >> 1
