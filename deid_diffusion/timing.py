"""Adds up how long each stage of a picture takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timing:
    """`with timing("detect"): ...` adds to `timing.seconds["detect"]`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the seconds that a `with` block takes to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Adds seconds that were measured elsewhere, as a share of a batch.

        Args:
            stage: name of it.
            seconds: to add.
        """
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
