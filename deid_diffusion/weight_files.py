"""Knows where the shipped weights lie, in a checkout and in a wheel, and whether they are whole."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from .messages import brief, not_a_path

_PACKAGE = Path(__file__).parent


def weights_dir(name: str) -> Path:
    """Folder of the shipped weights called `name` ("face256", "face_estimator").

    Raises:
        FileNotFoundError: when neither the wheel nor a checkout holds it.
    """
    if not_a_path(name):
        raise FileNotFoundError(f"no shipped weights {not_a_path(name)}; give a name, a folder or a Hub name")
    places = [_PACKAGE / "weights" / name, _PACKAGE.parent / "weights" / name]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"no shipped weights {brief(name)}: looked in {' and '.join(str(p) for p in places)}. "
        "Reinstall deid-diffusion, or give a folder or a Hub name to from_pretrained()."
    )


def cache_dir() -> Path:
    """Folder for what can be made again: DEID_CACHE, else `deid_diffusion` in XDG_CACHE_HOME, else in ~/.cache."""
    own = os.environ.get("DEID_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deid_diffusion"


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces: checkpoints are larger than some memories."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def check_hashes(folder: Path, only: Collection[str] | None = None) -> dict[str, str]:
    """Compares a weights folder with its `SHA256SUMS`.

    Args:
        folder: of weights.
        only: first parts of the names to look at ("id_encoder"); None for all that are listed.

    Returns:
        sha256 by relative file name; empty when the folder has no `SHA256SUMS`.

    Raises:
        ValueError: a file is missing or is not the one that was published.
    """
    sums = folder / "SHA256SUMS"
    if not sums.exists():
        return {}
    rows = [line.split(maxsplit=1) for line in sums.read_text().splitlines() if line.strip()]
    listed = {name: value for value, name in rows}
    if only is not None:
        listed = {name: value for name, value in listed.items() if name.split("/")[0] in only}
    for name, wanted in listed.items():
        path = folder / name
        got = sha256_of(path) if path.is_file() else "no such file"
        if got != wanted:
            raise ValueError(
                f"{path} should have sha256 {wanted[:12]}..., got {got[:12]}...; the weights are damaged or were "
                "changed. Reinstall deid-diffusion or download the folder again."
            )
    return listed


def write_hashes(folder: Path) -> None:
    """Writes `SHA256SUMS` of every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{sha256_of(p)}  {p.relative_to(folder).as_posix()}" for p in files]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
