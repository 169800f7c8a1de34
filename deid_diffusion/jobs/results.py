"""Keeps the results of a run of any length: in memory while they are few, then in a file that nobody else can open."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, overload

from .run import JobResult

IN_MEMORY = 16 << 20  # bytes


class Results(Sequence[JobResult]):
    """A sequence that grows; what is in it is read again each time that it is asked for."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # gone with this object
        self._starts: list[int] = []

    def append(self, result: JobResult) -> None:
        """Adds one.

        Args:
            result: of a job.
        """
        self._starts.append(self._file.seek(0, 2))
        pickle.dump(result, self._file)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> JobResult: ...
    @overload
    def __getitem__(self, place: slice) -> list[JobResult]: ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        self._file.seek(self._starts[place])
        return pickle.load(self._file)

    def __iter__(self) -> Iterator[JobResult]:
        for place in range(len(self)):
            yield self[place]
