"""Keeps the networks' outputs in one file that the user names and can delete, and nowhere else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.results import EvaluationError

_PATIENCE = 60.0  # seconds to wait for another evaluation that writes to the same file


class ArrayCache:
    """Arrays by key, on disk, one by one: memory does not grow. Without a path it remembers nothing.

    The file holds embeddings, which are biometric data: it lies only where the user asked for it.

    Args:
        path: of the file, made when it is not there; None for none.

    Raises:
        EvaluationError: the file is no such cache, or cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._rows = None
        if path is None:
            return
        try:
            # Every array is a transaction of its own, or whoever shares the file waits for a whole batch. What a power
            # cut loses can be made again, so nothing waits for the disk.
            self._rows = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
            self._rows.execute("PRAGMA synchronous = OFF")
            self._rows.execute("CREATE TABLE IF NOT EXISTS arrays (key TEXT PRIMARY KEY, shape TEXT, data BLOB)")
        except sqlite3.DatabaseError as error:
            raise EvaluationError(f"cannot use {path.name} as a cache ({error}): name a new file") from error

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The float32 array of a key, of any shape, made when it is not there yet.

        Args:
            key: names everything the result depends on: the picture's content hash, the weights' hash, the place.
            make: is called for an array that is not there.
        """
        if self._rows is None:
            return np.asarray(make(), dtype=np.float32)
        row = self._rows.execute("SELECT shape, data FROM arrays WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return np.frombuffer(row[1], dtype=np.float32).reshape([int(v) for v in row[0].split(",") if v])
        array = np.ascontiguousarray(make(), dtype=np.float32)
        shape = ",".join(map(str, array.shape))
        self._rows.execute("INSERT OR REPLACE INTO arrays VALUES (?, ?, ?)", (key, shape, array.tobytes()))
        return array

    def close(self) -> None:
        """The cache is not usable afterwards."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def __enter__(self) -> ArrayCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
