"""Keeps what the networks said in one file that the user names and can delete, and nowhere else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.results import EvaluationError

_COMMIT_EVERY = 200


class ArrayCache:
    """Arrays by key, on disk, one by one: memory does not grow. Without a path it remembers nothing.

    The file holds embeddings, which are biometric data: it lies only where the user asked for it.
    """

    def __init__(self, path: Path | None = None):
        self._rows, self._pending = None, 0
        if path is None:
            return
        try:
            self._rows = sqlite3.connect(path)
            self._rows.execute("CREATE TABLE IF NOT EXISTS arrays (key TEXT PRIMARY KEY, shape TEXT, data BLOB)")
        except sqlite3.DatabaseError as error:
            raise EvaluationError(f"cannot use {path.name} as a cache ({error}): name a new file") from error

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The float32 array of `key`, made by `make()` when it is not there yet.

        `key` must name everything the result depends on: the picture's content hash, the weights' hash, the place.
        """
        if self._rows is None:
            return np.asarray(make(), dtype=np.float32)
        row = self._rows.execute("SELECT shape, data FROM arrays WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return np.frombuffer(row[1], dtype=np.float32).reshape([int(v) for v in row[0].split(",") if v])
        array = np.ascontiguousarray(make(), dtype=np.float32)
        shape = ",".join(map(str, array.shape))
        self._rows.execute("INSERT OR REPLACE INTO arrays VALUES (?, ?, ?)", (key, shape, array.tobytes()))
        self._pending += 1
        if self._pending >= _COMMIT_EVERY:
            self._rows.commit()
            self._pending = 0
        return array

    def close(self) -> None:
        """Writes what is pending. The cache is not usable afterwards."""
        if self._rows is not None:
            self._rows.commit()
            self._rows.close()
            self._rows = None

    def __enter__(self) -> ArrayCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
