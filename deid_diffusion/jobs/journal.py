"""Remembers which outputs are ours and which are finished, so that an interrupted run goes on where it stopped.

A file of JSON lines beside the outputs. It holds what the report holds: no embedding, no pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

NAME = ".deid-progress.jsonl"
_DONE = {"made_with", "source", "faces", "seconds"}  # what a line about a finished output must say


class Journal:
    """The last line about each output counts; a line torn by a crash counts as never written."""

    def __init__(self, folder: Path):
        """Of the outputs below `folder`. Reads nothing and writes nothing yet."""
        self.path = folder / NAME
        self._lines: dict[str, dict[str, Any]] | None = None

    def line(self, out: Path) -> dict[str, Any] | None:
        """What was last written about an output, None when it is not ours."""
        return self._read().get(self._name(out))

    def add(self, lines: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
        """Appends a line for each output; makes the folder when there is none.

        Raises:
            OSError: the folder cannot be written to, or the disk is full.
        """
        new = {self._name(out): dict(line) for out, line in lines}
        known = self._read()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            # A leading line break cuts off what a crash may have left half-written.
            file.write("".join("\n" + json.dumps({"out": name, **line}) for name, line in new.items()))
        known |= new

    def remove(self) -> None:
        """Forgets everything; nothing then says that the outputs are ours."""
        self.path.unlink(missing_ok=True)
        self._lines = None

    def _name(self, out: Path) -> str:
        return Path(os.path.relpath(out.absolute(), self.path.parent.absolute())).as_posix()

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._lines is None:
            self._lines = {}
            text = self.path.read_text(encoding="utf-8", errors="replace") if os.path.isfile(self.path) else ""
            for row in text.splitlines():
                try:
                    line = json.loads(row)
                    if line["state"] == "done" and not line.keys() >= _DONE:
                        line = {"out": line["out"], "state": "begun"}
                    self._lines[line.pop("out")] = line
                except (ValueError, KeyError, AttributeError, TypeError):
                    continue
        return self._lines


def describe(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain values. Reference people become their number and a hash, never embeddings."""
    return {item.name: _plain(getattr(settings, item.name)) for item in fields(settings) if item.name != "key"}


def fingerprint(*parts: Any) -> str:
    """A short hash that changes with any setting, reference person, version, seed or box; 1 and 1.0 are one."""
    digest = hashlib.sha256()
    for part in parts:
        part = _one_spelling(describe(part) if is_dataclass(part) else part)
        digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\0")
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        holds_arrays = any(isinstance(part, np.ndarray) for part in vars(value).values())
        return str(value) if holds_arrays else asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


def _one_spelling(value: Any) -> Any:
    """Whole numbers as int, at any depth."""
    if isinstance(value, Mapping):
        return {name: _one_spelling(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_one_spelling(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
