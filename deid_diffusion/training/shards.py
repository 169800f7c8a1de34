"""Keeps a data set that grows: shards of crops and labels, each written whole or not at all."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from deid_diffusion.faces.lenses import DARK_LENS

WORN = ("key", "glasses", "facial_hair", "sunglasses")
SUNGLASSES, LENS_SHADE = 18, 4  # columns of `attributes` and of `measured`
TRIED = "tried_"  # of columns with a row for each attempt, not for each crop


class Shards:
    """`NAME-0000.tar` (256 px), `NAME512-0000.tar` and `NAME-0000.npz` of a folder, and `NAME.npz` of all together.

    A shard is there when its labels are; crops without labels were left by a run that was killed, and are overwritten.
    """

    def __init__(self, folder: Path, name: str = "synthetic"):
        """Reads the labels of the shards that are there.

        Args:
            folder: which exists.
            name: NAME, with which its files begin.
        """
        self.folder, self.name = folder, name
        self.labels: list[dict[str, np.ndarray]] = []
        while (path := self._path("", len(self.labels), "npz")).exists():
            with np.load(path) as file:
                self.labels.append(upgraded({column: file[column] for column in file.files}))

    def add(self, crops: Mapping[str, Iterable[tuple[str, bytes]]], labels: Mapping[str, np.ndarray]) -> None:
        """Writes one more shard, then the labels of all.

        Args:
            crops: what follows NAME in the tar's file name ("" or "512") -> key and WebP bytes of each crop.
            labels: columns, a row for each crop; those called `tried_...` have a row for each attempt.
        """
        number = len(self.labels)
        for suffix, files in crops.items():
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for key, data in files:
                    entry = tarfile.TarInfo(f"{key}.webp")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
            write_whole(self._path(suffix, number, "tar"), buffer.getvalue())
        write_whole(self._path("", number, "npz"), packed(labels))
        self.labels.append(dict(labels))
        self.merge()

    def drop_last(self) -> None:
        """Forgets the last shard, which is to be made anew."""
        self._path("", len(self.labels) - 1, "npz").unlink()
        self.labels.pop()

    def column(self, name: str) -> np.ndarray:
        """(N, ...): one column of all shards, of which there is at least one."""
        return np.concatenate([labels[name] for labels in self.labels])

    def merge(self) -> None:
        """Writes `NAME.npz`, the labels as training wants them, and `NAME_labels.npz`, as its `--labels` does."""
        columns = {n: self.column(n) for n in self.labels[0] if not n.startswith(TRIED)}
        write_whole(self.folder / f"{self.name}.npz", packed(columns))
        seen: dict[str, np.ndarray] = {n: columns[n] for n in WORN if n in columns}
        write_whole(self.folder / f"{self.name}_labels.npz", packed(seen))

    def crops(self, suffix: str = "", number: int | None = None) -> Iterable[tuple[str, bytes]]:
        """Key and WebP bytes of every crop.

        Args:
            suffix: what follows NAME in the tar's file name.
            number: of the only shard to read; None for all.
        """
        for shard in range(len(self.labels)) if number is None else [number]:
            with tarfile.open(self._path(suffix, shard, "tar")) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None  # `add` puts in nothing but files
                    yield Path(member.name).stem, file.read()

    def _path(self, suffix: str, number: int, kind: str) -> Path:
        return self.folder / f"{self.name}{suffix}-{number:04d}.{kind}"


def packed(columns: Mapping[str, np.ndarray]) -> bytes:
    """An npz file's bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **columns)  # type: ignore[arg-type]  # numpy's types take a column for `allow_pickle`
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that a crash leaves the old one or the new one, and never a part.

    Args:
        path: of the file, in a folder that exists.
        data: all of it.
    """
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def upgraded(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels of a shard; those from before sunglasses were an attribute get them from how dark the lenses are.

    Args:
        labels: by name, as read; `attributes` (N, A).
    """
    attributes = labels.get("attributes")
    if attributes is None or attributes.shape[1] != SUNGLASSES or "measured" not in labels:
        return labels
    dark = (labels["measured"][:, LENS_SHADE] > 1 - DARK_LENS).astype(attributes.dtype)
    return labels | {"attributes": np.column_stack([attributes, dark]), "sunglasses": dark}
