"""Pictures in object stores: `s3://`, `gs://` and what else fsspec opens, read and written through a local copy."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import total_ordering
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import DeidError
from ..messages import brief_error

if TYPE_CHECKING:
    from .plan import Job
    from .run import JobResult, Work

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class UrlError(DeidError, OSError):
    """A place in an object store cannot be reached; says why."""


@total_ordering
@dataclass(frozen=True)
class Url(PathLike[str]):
    """A place in an object store, with as much of `Path` as jobs need.

    Attributes:
        text: "s3://bucket/folder/name.jpg".
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __fspath__(self) -> str:
        return self.text

    def __lt__(self, other: Any) -> bool:
        return str(self) < str(other)

    def __truediv__(self, below: str | PathLike[str]) -> Url:
        return Url(f"{self.text.rstrip('/')}/{PurePosixPath(below).as_posix()}")

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.text.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        """What is before the last slash."""
        return Url(self.text.rstrip("/").rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is such an object.

        Raises:
            UrlError: nobody can tell.
        """
        with _clear(self):
            return bool(_files(self).exists(self.text))

    def is_file(self) -> bool:
        """False: it is no file of this machine."""
        return False

    def state(self, anew: bool = False) -> tuple[int, ...]:
        """Size in bytes, and a number that changes with its content or time; empty for one that is gone.

        Args:
            anew: ask the store, and no list that was read before.

        Raises:
            UrlError: nobody can tell.
        """
        with _clear(self):
            files = _files(self)
            if anew:
                files.invalidate_cache(self.parent.text)
            try:
                info = files.info(self.text)
            except FileNotFoundError:
                return ()
        known = [
            info.get(name) for name in ("ETag", "etag", "md5Hash", "generation", "LastModified", "updated", "mtime")
        ]
        digest = hashlib.sha256(
            repr([value for value in known if value is not None][:1] + [info.get("created")]).encode()
        )
        return int(info.get("size") or 0), int(digest.hexdigest()[:12], 16)

    def below(self) -> list[Url]:
        """All objects below it, sorted; itself, if it is one.

        Raises:
            UrlError: they cannot be listed.
        """
        scheme = self.text.partition("://")[0]
        with _clear(self):
            found = _files(self).find(self.text)
        return sorted(Url(f"{scheme}://{name.lstrip('/') if scheme in EXTRAS else name}") for name in found)


def place(text: str) -> Path | Url:
    """What the command line names: a Url when there is a scheme before `://`, else a path."""
    scheme, colon, _ = text.partition("://")
    return Url(text) if colon and scheme.isalnum() else Path(text)


def staged(work: Work, job: Job) -> JobResult:
    """Does a job of which an end lies in an object store: through a copy here, that is gone when it is done.

    The store gets a finished file, or none.

    Args:
        work: what is done.
        job: to do.

    Returns:
        its result; a failure when an end is out of reach.
    """
    from .run import JobResult

    with tempfile.TemporaryDirectory(prefix="deid-") as folder:
        near = replace(
            job,
            in_path=_near(job.in_path, Path(folder) / "in"),
            out_path=_near(job.out_path, Path(folder) / "out"),
        )
        try:
            before = _state(job.in_path)
            _fetch(job.in_path, near.in_path)
            result = work(near)
            if result.ok and before != _state(job.in_path):
                raise UrlError(f"{job.in_path}: was changed while it was worked on; run it again when it is whole")
            if result.ok:
                _send(near.out_path, job.out_path)
        except UrlError as error:
            return JobResult(job, error=str(error))
        said = result.error.replace(str(near.in_path), str(job.in_path)).replace(str(near.out_path), str(job.out_path))
        return replace(result, job=job, error=said, source=before or result.source)


def _near(far: Any, folder: Path) -> Path:
    return folder / f"picture{far.suffix}" if isinstance(far, Url) else far


def _state(where: Any) -> tuple[int, ...]:
    return where.state(anew=True) if isinstance(where, Url) else ()


def _fetch(source: Any, target: Path) -> None:
    if isinstance(source, Url):
        target.parent.mkdir(exist_ok=True)
        with _clear(source):
            _files(source).get_file(source.text, str(target))


def _send(source: Path, target: Any) -> None:
    if isinstance(target, Url):
        with _clear(target):
            _files(target).put_file(str(source), target.text)


def _files(url: Url) -> Any:
    """The file system of a place, the same one each time.

    Raises:
        UrlError: what it needs is not installed.
    """
    scheme = url.text.partition("://")[0]
    extra = EXTRAS.get(scheme)
    how = f"; pip install 'deid-diffusion[{extra}]'" if extra else ""
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise UrlError(f"{url}: wanted a place that fsspec opens, got {brief_error(error)}{how}") from error


@contextmanager
def _clear(url: Url) -> Iterator[None]:
    """Turns what the store's library says into one line."""
    try:
        yield
    except (UrlError, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        raise UrlError(f"{url}: wanted an object or a folder, found nothing there") from error
    except Exception as error:  # their exceptions have no common base
        said = brief_error(error)
        hint = "; give credentials as its own tools take them" if _is_about_access(error) else ""
        raise UrlError(f"{url}: wanted to reach it, got {type(error).__name__}: {said}{hint}") from error


def _is_about_access(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("credential", "permission", "forbidden", "access", "denied", "anonymous"))
