"""Keeps encoded packets in whole segments beside the output, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..messages import brief_path
from .clip_info import ClipError

# A packet: pts, duration, bytes, whether it is a key frame; then the bytes. No container holds every codec with times
# to the tick, so the packets lie here as the encoder gave them.
_HEAD = struct.Struct("<qqI?")
_KEY = "key.json"
LOOKS = "looks.jsonl"  # what was found in the frames, see `faces.saved_looks`
_SUFFIX = ".packets"
_PART = ".part"


@dataclass(frozen=True, eq=False)
class Packet:
    """One encoded frame; times in ticks of the source's time base."""

    pts: int
    duration: int
    is_key: bool
    data: bytes


def segments_folder(output: Path) -> Path:
    """The folder beside an output in which unfinished work is kept."""
    return output.with_name(f".deid-{output.name}.segments")


class Segments:
    """The folder `.deid-NAME.segments` of one output file.

    Args:
        output: the file to be written in the end.
        key: what the segments depend on; those of another key are removed.

    Attributes:
        frames: in the whole segments found.
        last_pts: the greatest in them, or None.

    Raises:
        ClipError: the folder cannot be made, read or written.
    """

    def __init__(self, output: Path, key: dict[str, Any]) -> None:
        self.folder = segments_folder(output)
        self._number, self.frames = 0, 0
        self._file: BinaryIO | None = None
        self.last_pts: int | None = None
        try:
            self.folder.mkdir(exist_ok=True)
            self._begin(json.dumps(key, sort_keys=True))
        except OSError as error:
            raise ClipError(f"{brief_path(output)}: wanted to write beside it, got {error.strerror}") from None

    def _begin(self, key: str) -> None:
        note = self.folder / _KEY
        if not note.exists() or note.read_text(encoding="utf-8") != key:
            self._clear()
            note.write_text(key, encoding="utf-8")
        while self._path(self._number).exists():
            for packet in _read(self._path(self._number), with_data=False):
                self.frames += 1
                self.last_pts = packet.pts if self.last_pts is None else max(self.last_pts, packet.pts)
            self._number += 1

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}{_SUFFIX}"

    def add(self, packet: Any) -> None:
        """Appends an encoder's `av.Packet` to the segment that is being written."""
        if self._file is None:
            self._file = open(self._part(), "wb")
        self._file.write(_HEAD.pack(packet.pts, packet.duration or 0, packet.size, packet.is_keyframe))
        self._file.write(bytes(packet))

    def close(self) -> None:
        """Ends the segment: from now on it survives."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part(), self._path(self._number))
        self._file, self._number = None, self._number + 1

    def abandon(self) -> None:
        """Removes the segment that is being written; whole ones stay."""
        if self._file is not None:
            with suppress(OSError):  # of a full disk, which closing would write to
                self._file.close()
            self._part().unlink(missing_ok=True)
            self._file = None

    def _part(self) -> Path:
        return self._path(self._number).with_suffix(_SUFFIX + _PART)

    def packets(self, with_data: bool = True) -> Iterator[Packet]:
        """Those of all whole segments in decoding order."""
        for number in range(self._number):
            yield from _read(self._path(number), with_data)

    def remove(self) -> None:
        """Removes the folder with all that runs keep in it."""
        self.abandon()
        self._clear()
        for name in (_KEY, LOOKS):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name.endswith((_SUFFIX, _PART)):
                path.unlink()


def _read(path: Path, with_data: bool) -> Iterator[Packet]:
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            pts, duration, size, is_key = _HEAD.unpack(head)
            yield Packet(pts, duration, is_key, _bytes(file, size) if with_data else b"")
            if not with_data:
                file.seek(size, os.SEEK_CUR)


def _bytes(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ClipError(f"wanted {size:,} bytes of a segment, got {len(data):,}; remove its folder and run again")
    return data
