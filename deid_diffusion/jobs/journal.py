"""Remembers which outputs are ours and which are finished, so that an interrupted run goes on where it stopped.

A file of JSON lines beside the outputs. It holds what the report holds, and the seeds: no embedding, no pixels. As
seeds are confidential, it is for its owner's eyes, and goes when the run is complete and clean; in an output folder of
our own a list without seeds stays, by which the next run knows what is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .urls import Url

NAME = ".deid-progress.jsonl"
OUTPUTS = ".deid-outputs.jsonl"  # the list that stays
NOTE = {"confidential": "holds seeds, by which faces can be made again; it goes when the run is complete and clean"}
_DONE = {"made_with", "source", "faces", "seconds"}  # what a line about a finished output must say


class Journal:
    """The last line about each output counts; a line torn by a crash counts as never written."""

    def __init__(self, folder: Path):
        """Of the outputs below `folder`. Reads nothing and writes nothing yet."""
        self.path, self.list_path = folder / NAME, folder / OUTPUTS
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8", opener=_for_owner) as file:
            note = "" if file.tell() else json.dumps(NOTE)
            # A leading line break cuts off what a crash may have left half-written.
            file.write(note + "".join("\n" + json.dumps({"out": name, **line}) for name, line in new.items()))
        self._lines = None  # read again by who asks: a run of many files adds, and does not ask

    def finish(self, keep_list: bool) -> None:
        """Removes the journal and its seeds; to be called when the run is complete and clean.

        Args:
            keep_list: leave a list without seeds, so that the next run knows what is done; else nothing then says
                that the outputs are ours.
        """
        if keep_list:
            salt = secrets.token_bytes(16)
            part = self.list_path.with_name(f".{secrets.token_hex(8)}.part")
            with open(part, "w", encoding="utf-8", opener=_for_owner) as file:
                for name, line in self._last_lines():
                    if line["state"] == "done":
                        file.write(json.dumps({"out": name, **_without_seeds(line, salt)}) + "\n")
            os.replace(part, self.list_path)
        self.path.unlink(missing_ok=True)
        self._lines = None

    def _name(self, out: Path) -> str:
        if isinstance(out, Url):
            return str(out)
        return Path(os.path.relpath(out.absolute(), self.path.parent.absolute())).as_posix()

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._lines is None:
            self._lines = {name: line for _, name, line in self._rows()}
        return self._lines

    def _last_lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The line of each output that counts, one at a time: all of them may be more than fits into memory."""
        last = {name: place for place, name, _ in self._rows()}
        for place, name, line in self._rows():
            if last[name] == place:
                yield name, line

    def _rows(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Number, output and content of every whole line, in the order they were written."""
        place = 0
        for path in (self.list_path, self.path):
            if not os.path.isfile(path):
                continue
            with open(path, encoding="utf-8", errors="replace") as file:
                for row in file:
                    place += 1
                    try:
                        line = json.loads(row)
                        if line["state"] == "done" and not line.keys() >= _DONE:
                            line = {"out": line["out"], "state": "begun"}
                        yield place, line.pop("out"), line
                    except (ValueError, KeyError, AttributeError, TypeError):
                        continue


def seed_fits(line: Mapping[str, Any], run_seed: int | None) -> bool:
    """Whether a finished output was made by a run of this seed.

    Args:
        line: of the journal, or of the list that it left.
        run_seed: as the user gave it; None for one that is drawn, and then any will do.
    """
    if run_seed is None or line.get("run_seed") == run_seed:
        return True
    salt, _, check = line.get("seed_check", "").partition(":")
    return bool(check) and _seed_check(run_seed, bytes.fromhex(salt)) == f"{salt}:{check}"


def _without_seeds(line: Mapping[str, Any], salt: bytes) -> dict[str, Any]:
    """A finished line that tells no seed, but whether it was made with one that the user knows."""
    kept = {name: value for name, value in line.items() if name not in ("seed", "run_seed")}
    if line.get("run_seed") is not None:
        kept["seed_check"] = _seed_check(line["run_seed"], salt)
    if "faces" in line:
        kept["faces"] = [{name: value for name, value in face.items() if name != "seed"} for face in line["faces"]]
    return kept


@lru_cache
def _seed_check(seed: int, salt: bytes) -> str:
    """Slow on purpose: people choose small seeds, which a fast hash would give away."""
    return f"{salt.hex()}:{hashlib.scrypt(str(seed).encode(), salt=salt, n=2**14, r=8, p=1).hex()}"


def _for_owner(path: str, flags: int) -> int:
    """Opens a file that nobody but its owner may read, also one that others could read before."""
    number = os.open(path, flags, 0o600)
    if hasattr(os, "fchmod"):  # Windows has other means
        os.fchmod(number, 0o600)
    return number


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
