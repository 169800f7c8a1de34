"""Decides what is read and what is written where, when one of the two is an object store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from ..imaging.pictures import FORMATS
from ..seeds import checked_seed
from ..weight_files import cache_dir
from .journal import Journal
from .plan import VIDEOS, Job, Plan, PlanError, Skipped, _suffix, _with_seeds, pictures_in
from .urls import Url, UrlError


def plan_urls(
    inputs: Sequence[Path | Url],
    out: Path | Url | None,
    seed: int | None = None,
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> Plan:
    """Turns objects and folders into jobs: trees are mirrored in `out`, as `plan.plan` does.

    The journal of outputs in a store lies on this machine, in the cache folder.

    Args:
        inputs: objects, prefixes of objects, files and folders.
        out: folder, or prefix; must be given.
        seed: of the run; None draws one, or takes those that the journal of a stopped run has.
        exclude: patterns of names below the input to leave out.
        overwrite: do everything anew.

    Raises:
        PlanError: nothing to do, no `out`, or two inputs that would become one output.
        UrlError: the store cannot be reached.
    """
    if out is None:
        raise PlanError("wanted a place for the outputs of an object store, got none; give -o")
    several = len(inputs) > 1
    skipped: list[Skipped] = []
    jobs: dict[str, Job] = {}
    for source in inputs:
        if str(out).rstrip("/").startswith(str(source).rstrip("/") + "/") or str(out) == str(source):
            raise PlanError(f"{source}: wanted outputs outside of the inputs, got {out}; give another -o")
        for item, name in _found(source, several, skipped, exclude):
            target = out / name.with_suffix(_suffix(name))
            other = jobs.get(str(target))
            if other is not None:
                raise PlanError(f"{item} and {other.in_path} would both become {target}; run them one by one")
            jobs[str(target)] = Job(item, target, 0, name.as_posix(), run_seed=seed)  # type: ignore[arg-type]
    if not jobs:
        raise PlanError(f"wanted a picture to anonymize, got none in {', '.join(map(str, inputs))}; name others")
    far = isinstance(out, Url)
    folder = cache_dir() / "journals" / hashlib.sha256(str(out).encode()).hexdigest()[:16] if far else Path(out)
    kept = sorted(jobs.values(), key=lambda job: (job.name, str(job.in_path)))
    lone = len(kept) == 1 and kept[0].name == Path(inputs[0]).name
    journal = Journal(folder) if seed is None and not overwrite else None
    kept = _with_seeds(kept, checked_seed(seed), lone, journal)
    return Plan(tuple(kept), folder, tuple(skipped), True)


def _found(
    source: Path | Url, several: bool, skipped: list[Skipped], exclude: Sequence[str]
) -> list[tuple[Any, Path]]:
    """What is to be done below an input, each with its name there."""
    kinds = {*FORMATS, *VIDEOS}
    if isinstance(source, Url):
        objects: list[Any] = list(source.below())
        if not objects:
            raise UrlError(f"{source}: wanted an object or a folder, found nothing there")
        lone = objects == [source]
        root = str(source.parent if lone else source).rstrip("/")
        rows = [(item, Path(str(item)[len(root) + 1 :])) for item in objects]
    else:
        lone = not os.path.isdir(source)
        rows = [(path, path.relative_to(source.parent if lone else source)) for path in _local(source, lone)]
    found = []
    for item, name in rows:
        if reason := _left_out(name, kinds, exclude):
            skipped.append(Skipped(item, reason))
        else:
            found.append((item, Path(Path(str(source).rstrip("/")).name) / name if several and not lone else name))
    return found


def _local(source: Path, lone: bool) -> list[Path]:
    if lone and not source.is_file():
        raise PlanError(f"{source}: wanted a picture or a folder, found nothing there; check the path")
    return [source] if lone else pictures_in(source, kinds={*FORMATS, *VIDEOS})


def _left_out(name: Path, kinds: set[str], exclude: Sequence[str]) -> str:
    parts = PurePosixPath(name).parts
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any(fnmatchcase("/".join(parts[: count + 1]), pattern) for count in range(len(parts)) for pattern in exclude):
        return "excluded"
    return "" if name.suffix.lower() in kinds else "no picture by its suffix"
