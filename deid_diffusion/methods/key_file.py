"""Reads and writes key files: the secret from which pseudonyms follow."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import stat
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import DeidError
from ..messages import brief_path, not_a_path

log = logging.getLogger(__name__)
NAME, VERSION, BYTES = "deid-key", "1", 32
_AGAIN = "give the file that `deid key new` wrote"


class PseudonymError(DeidError, ValueError):
    """A key or a registry that cannot be used. Nothing was changed."""


@dataclass(frozen=True, eq=False, repr=False)
class Key:
    """A secret, and the file that it is in.

    Attributes:
        path: of the file.
        secret: 32 bytes.
    """

    path: Path
    secret: bytes

    def mac(self, *words: str) -> bytes:
        """HMAC-SHA-256 of some words under the secret, 32 bytes: tells nothing about it."""
        return hmac.new(self.secret, "\0".join(words).encode(), hashlib.sha256).digest()

    @property
    def name(self) -> str:
        """16 hex digits that tell keys apart, in the clear."""
        return self.mac("name").hex()[:16]


def new_key(path: str | PathLike) -> Key:
    """Writes a new key, readable by its owner alone.

    Args:
        path: where to; nothing may be there.

    Raises:
        PseudonymError: there is something, or the place cannot be written to.
    """
    path = _as_path(path)
    key = Key(path, secrets.token_bytes(BYTES))
    text = f"{NAME} {VERSION}\n{base64.urlsafe_b64encode(key.secret).decode()}\n"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise PseudonymError(
            f"{brief_path(path)}: wanted a name for a new key, got one that exists; it is left as it is: whoever "
            "loses a key loses its pseudonyms"
        ) from None
    except OSError as error:
        raise PseudonymError(f"{brief_path(path)}: wanted to write a key there, got {error.strerror}") from error
    with os.fdopen(file, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    return key


def read_key(path: str | PathLike) -> Key:
    """Reads a key; warns when others may read it, too.

    Args:
        path: of the file.

    Raises:
        PseudonymError: no file, no key, or one of another version.
    """
    path = _as_path(path)
    try:
        with open(path, "rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(1024)
    except FileNotFoundError:
        raise PseudonymError(f"{brief_path(path)}: wanted a key, found no file; {_AGAIN}") from None
    except OSError as error:
        raise PseudonymError(f"{brief_path(path)}: wanted a key, got {error.strerror}; {_AGAIN}") from error
    name, _, rest = text.decode("ascii", "replace").partition(" ")
    version, _, code = rest.partition("\n")
    if name != NAME:
        got = "an empty file" if not text.strip() else "another file"
        raise PseudonymError(f"{brief_path(path)}: wanted a key, got {got}; {_AGAIN}")
    if version.strip() != VERSION:
        raise PseudonymError(
            f"{brief_path(path)}: wanted a key of version {VERSION}, got one of another version of deid_diffusion; "
            "use the version that wrote it"
        )
    try:
        secret = base64.b64decode(code.strip(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != BYTES:
        raise PseudonymError(f"{brief_path(path)}: wanted a key of {BYTES} bytes, got a damaged one; restore a backup")
    if is_open(mode):
        log.warning(
            "%s: others may read this key, and with it they can tell who became whom: chmod 600", brief_path(path)
        )
    return Key(path, secret)


def is_open(mode: int) -> bool:
    """Whether others than its owner may read a file, as far as the system knows.

    Args:
        mode: of the file, from `os.stat`.
    """
    return os.name == "posix" and bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def _as_path(path: str | PathLike) -> Path:
    if wrong := not_a_path(path):
        raise PseudonymError(f"a key is given by the path of its file, got {wrong}; {_AGAIN}")
    return Path(path).absolute()  # workers may run elsewhere
