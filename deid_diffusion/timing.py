"""Adds up how long each stage of a picture takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timing:
    """`with timing("detect"): ...` adds to `timing.seconds["detect"]`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nothing is counted yet.

        Args:
            clock: in seconds; `time.thread_time` counts what a busy machine does not falsify.
        """
        self.seconds: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the seconds that a `with` block takes to a stage."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(stage, self._clock() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Adds seconds that were measured elsewhere, as a share of a batch.

        Args:
            stage: name of it.
            seconds: to add.
        """
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
