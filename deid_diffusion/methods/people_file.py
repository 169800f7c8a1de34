"""Keeps the people that a key knows, in a sealed file beside it: read by many, written by one at a time."""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..messages import brief_path
from .key_file import Key, PseudonymError, is_open

log = logging.getLogger(__name__)
NAME, VERSION = "deid-people", "1"
_NONCE = 12
_BACKUP = "nothing was changed; restore a backup"


@dataclass(frozen=True, eq=False, repr=False)
class Person:
    """Somebody whom a key knows.

    Attributes:
        number: of the person, from 1; never given to another one.
        target: bank number of the stranger who they become.
        embeddings: (E, D) float32 unit norm, one row for each way in which they were met.
    """

    number: int
    target: int
    embeddings: np.ndarray


@dataclass(eq=False, repr=False)
class People:
    """All of them.

    Attributes:
        people: by number.
        next: number of the next one.
        retired: targets of people who were forgotten or merged; nobody else gets them while there are others.
        bank: digest of the bank that the targets are of; empty while nobody is known.
    """

    people: dict[int, Person] = field(default_factory=dict)
    next: int = 1
    retired: list[int] = field(default_factory=list)
    bank: str = ""


class PeopleFile:
    """The file, `KEY.people`: AES-256-GCM under a key that follows from the secret."""

    def __init__(self, key: Key) -> None:
        """Reads nothing yet.

        Raises:
            PseudonymError: the package `cryptography` is missing.
        """
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise PseudonymError('pseudonyms need cryptography: pip install "deid-diffusion[keys]"') from error
        self.key, self.path = key, key.path.with_name(key.path.name + ".people")
        self._cipher = AESGCM(key.mac("seal"))
        self._header = f"{NAME} {VERSION} {key.name}\n".encode()
        self._known: tuple[Any, People] | None = None
        self._warned = False

    def create(self) -> None:
        """Writes an empty one.

        Raises:
            PseudonymError: there is one already, or it cannot be written.
        """
        with self._locked():
            if os.path.lexists(self.path):
                raise PseudonymError(f"{brief_path(self.path)}: is there already, of another key; move it away")
            self._write(People())

    def load(self) -> People:
        """What the file says now. It is not to be changed, see `change`.

        Raises:
            PseudonymError: it is missing, damaged, of another key or version.
        """
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                state = status.st_ino, status.st_mtime_ns, status.st_size
                if self._known is not None and self._known[0] == state:
                    return self._known[1]
                data = file.read()
                if is_open(status.st_mode) and not self._warned:
                    self._warned = True
                    text = "%s: others may read the people of this key, who are safe only while the key is: chmod 600"
                    log.warning(text, brief_path(self.path))
        except FileNotFoundError:
            raise PseudonymError(
                f"{brief_path(self.path)}: wanted the people of this key, found no file; restore a backup, or make "
                "a new key: everybody then becomes somebody else"
            ) from None
        except OSError as error:
            raise PseudonymError(f"{brief_path(self.path)}: wanted to read it, got {error.strerror}") from error
        self._known = state, self._opened(data)
        return self._known[1]

    @contextmanager
    def change(self) -> Iterator[People]:
        """The people, to be changed; they are written, whole or not at all, if all goes well. Others wait.

        Raises:
            PseudonymError: as `load`, or they cannot be written.
        """
        with self._locked():
            self._known = None  # a copy of one's own, which may be changed half-way
            people = self.load()
            self._known = None
            yield people
            self._write(people)

    def _opened(self, data: bytes) -> People:
        from cryptography.exceptions import InvalidTag

        path, (name, _, rest) = brief_path(self.path), data.partition(b" ")
        version, _, other = rest.partition(b"\n")[0].partition(b" ")
        if name != NAME.encode():
            got = "an empty file" if not data else "a damaged or another file"
            raise PseudonymError(f"{path}: wanted the people of a key, got {got}; {_BACKUP}")
        if version != VERSION.encode():
            raise PseudonymError(
                f"{path}: wanted version {VERSION}, got one of another version of deid_diffusion; use that version"
            )
        if other != self.key.name.encode():
            raise PseudonymError(
                f"{path}: was sealed with another key than {brief_path(self.key.path)}; nothing was changed, give the "
                "key that it belongs to"
            )
        sealed = data[len(self._header) :]
        try:
            return _from_json(self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._header))
        except (InvalidTag, ValueError, KeyError) as error:
            raise PseudonymError(f"{path}: is damaged; {_BACKUP}") from error

    def _write(self, people: People) -> None:
        nonce = secrets.token_bytes(_NONCE)
        data = self._header + nonce + self._cipher.encrypt(nonce, _to_json(people), self._header)
        # One name for all: only who has the lock writes, and what a crash left behind is written over.
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(file, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, self.path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise PseudonymError(
                f"{brief_path(self.path)}: wanted to write it, got {error.strerror}; what was there is whole"
            ) from error
        _sync_folder(self.path.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """While it lasts no other process or thread is in here; the system lifts the lock of one that dies."""
        place = self.path.with_name(f".{self.path.name}.lock")
        try:
            file = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise PseudonymError(f"{brief_path(place)}: wanted to lock it, got {error.strerror}") from error
        try:
            _lock(file)
            yield
        finally:
            os.close(file)


def _lock(file: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt
        import time

        while True:
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
                return
            except OSError:
                time.sleep(0.05)
    fcntl.flock(file, fcntl.LOCK_EX)


def _sync_folder(folder: Path) -> None:
    """So that the new name outlives a power cut; where folders cannot be opened nothing can be done."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _to_json(people: People) -> bytes:
    rows = []
    for one in people.people.values():
        code = base64.b64encode(one.embeddings.astype("<f4").tobytes()).decode()
        rows.append([one.number, one.target, len(one.embeddings), code])
    return json.dumps({"next": people.next, "retired": people.retired, "bank": people.bank, "people": rows}).encode()


def _from_json(text: bytes) -> People:
    values = json.loads(text)
    people = {}
    for number, target, count, code in values["people"]:
        embeddings = np.frombuffer(base64.b64decode(code), "<f4").reshape(count, -1)
        people[number] = Person(number, target, embeddings)
    return People(people, values["next"], list(values["retired"]), values["bank"])
