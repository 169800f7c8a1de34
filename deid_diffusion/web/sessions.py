"""Keeps what each visitor brought apart from all others', and removes it when they leave."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DeidError

_ROOT = "deid-web-"
_NAME = re.compile(r"[^\w .()+,=@~-]", re.UNICODE)


class VisitError(DeidError, ValueError):
    """A visitor asks for what there is not, or brings more than fits; the message says what to do."""


class CancelledError(DeidError):
    """The visitor wants what is being worked on to stop."""


@dataclass(frozen=True)
class Limits:
    """What visitors may bring, and for how long it stays.

    Attributes:
        max_bytes: of one file.
        max_pixels: of one picture.
        held_pixels: of all pictures that one visitor works on: they are in memory.
        items: files of one visitor on each tab.
        visitors: at the same time.
        idle_s: seconds after the last request until everything of a visitor goes.
        leave_s: likewise, after their page was closed; a page that is loaded again is back before.
    """

    max_bytes: int = 500_000_000
    max_pixels: int = 50_000_000
    held_pixels: int = 200_000_000
    items: int = 500
    visitors: int = 32
    idle_s: float = 3600.0
    leave_s: float = 20.0


@dataclass(eq=False)
class Session:
    """One visitor.

    Attributes:
        secret: whoever says it is this visitor; it is in no address.
        key: opens this visitor's clips and reports, which browsers fetch by address alone.
        folder: of what was brought and made.
        items: photos, clips and evaluations by their id.
        seen_s: monotonic time of the last request.
        left_s: of when the page was closed; None while it is open.
        busy: how much is being worked on.
        progress: of what is being worked on: a share in [0, 1] and a few words.
        job: the name that the page gave to what is being worked on.
        stopped: jobs that are to stop, also before they begin.
        working_on: the id of the photo, clip or evaluation that is being worked on.
        cancelled: whether the visitor has gone, or what is being worked on has.
    """

    folder: Path
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    items: dict[str, Any] = field(default_factory=dict)
    seen_s: float = field(default_factory=time.monotonic)
    left_s: float | None = None
    busy: int = 0
    progress: tuple[float, str] = (0.0, "")
    job: str = ""
    stopped: set[str] = field(default_factory=set)
    working_on: str = ""
    cancelled: bool = False

    def tell(self, share: float, text: str) -> None:
        """Notes how far the work is.

        Args:
            share: of it that is done, in [0, 1].
            text: what is being done.

        Raises:
            CancelledError: the visitor wants it to stop.
        """
        if self.cancelled or self.job in self.stopped:
            raise CancelledError("cancelled")
        self.progress = (share, text)

    def stop(self, job: str) -> None:
        """Stops a job, now or before it begins.

        Args:
            job: its name.
        """
        if len(self.stopped) > 100:
            self.stopped.clear()
        self.stopped |= {job} - {""}

    def item(self, kind: type, number: str) -> Any:
        """A photo, clip or evaluation of this visitor.

        Args:
            kind: its class.
            number: its id.

        Raises:
            VisitError: there is none.
        """
        found = self.items.get(number)
        if not isinstance(found, kind):
            raise VisitError(
                "wanted something that is still open on this page, got something that is gone; add it again"
            )
        return found


class Sessions:
    """All visitors. Their files lie in a folder of the system's temporary one that nobody else may read."""

    def __init__(self, limits: Limits) -> None:
        """Makes the folder, and removes those of earlier processes that were killed.

        Args:
            limits: of each visitor.
        """
        self.limits = limits
        _remove_orphans()
        self.root = Path(tempfile.mkdtemp(prefix=f"{_ROOT}{os.getpid()}-"))
        self._of_secret: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self) -> Session:
        """A new visitor.

        Raises:
            VisitError: there are too many.
        """
        self.sweep()
        with self._lock:
            if len(self._of_secret) >= self.limits.visitors:
                raise VisitError(
                    f"wanted at most {self.limits.visitors} visitors at a time, got one more; try again later"
                )
            session = Session(Path(tempfile.mkdtemp(dir=self.root)))
            self._of_secret[session.secret] = session
            return session

    def find(self, secret: str | None) -> Session | None:
        """The visitor who says this; None for nobody.

        Args:
            secret: of the visitor.
        """
        with self._lock:
            session = self._of_secret.get(secret or "")
            if session is not None:
                session.seen_s, session.left_s = time.monotonic(), None
            return session

    def find_by_key(self, key: str | None) -> Session | None:
        """The visitor whose files this opens; None for nobody's.

        Args:
            key: as in an address.
        """
        with self._lock:
            rows = list(self._of_secret.values())
        return next((one for one in rows if key and secrets.compare_digest(one.key.encode(), key.encode())), None)

    @contextmanager
    def working(self, secret: str) -> Iterator[Session]:
        """A visitor for whom something is being done: while it is, nothing of theirs is removed.

        Args:
            secret: of the visitor.

        Raises:
            VisitError: the visitor has gone, or was away for too long.
        """
        with self._lock:
            session = self._of_secret.get(secret)
            # Work that waited while its page was closed must not bring the visit back.
            if session is None or session.left_s is not None:
                raise VisitError(
                    "wanted an open page, got one whose pictures were removed meanwhile; load the page again"
                )
            session.seen_s, session.busy = time.monotonic(), session.busy + 1
        try:
            yield session
        finally:
            session.busy -= 1
            session.seen_s = time.monotonic()

    def leave(self, secret: str) -> None:
        """Notes that the page was closed, or is being loaded again.

        Args:
            secret: of the visitor.
        """
        with self._lock:
            if session := self._of_secret.get(secret):
                session.left_s, session.cancelled = time.monotonic(), True

    def end(self, session: Session) -> None:
        """Removes a visitor and all that is theirs.

        Args:
            session: of the visitor.
        """
        with self._lock:
            self._of_secret.pop(session.secret, None)
        session.cancelled = True
        session.items.clear()
        shutil.rmtree(session.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Ends the visits of those who left, or were not heard of for too long."""
        now = time.monotonic()
        with self._lock:
            rows = list(self._of_secret.values())
        for one in rows:
            left = one.left_s is not None and now - one.left_s > self.limits.leave_s
            if not one.busy and (left or now - one.seen_s > self.limits.idle_s):
                self.end(one)

    def close(self) -> None:
        """Ends all visits and removes the folder."""
        with self._lock:
            rows = list(self._of_secret.values())
        for one in rows:
            self.end(one)
        shutil.rmtree(self.root, ignore_errors=True)


def safe_name(name: str) -> str:
    """A file's name as a visitor gave it, without what paths, terminals and file systems may trip over.

    Args:
        name: as the browser says it.
    """
    name = _NAME.sub("_", name.replace("\\", "/").rpartition("/")[2]).strip(" .") or "file"
    stem, dot, suffix = name.rpartition(".")
    return f"{(stem if dot else name)[:60]}{dot and '.'}{suffix[:10] if dot else ''}"


def _remove_orphans() -> None:
    """Folders of processes that are gone and could not clean up."""
    for path in Path(tempfile.gettempdir()).glob(f"{_ROOT}*-*"):
        number = path.name.removeprefix(_ROOT).partition("-")[0]
        if number.isdigit() and path.is_dir() and path.stat().st_uid == os.getuid() and not _is_alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
