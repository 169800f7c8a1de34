"""Keeps what was found in a clip's frames beside the output, so that a run that was killed does not look again.

JSON lines: boxes, points and scores. No embedding and no pixel is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ..messages import brief_path
from ..types import Face
from .face_list import FaceListError


class SavedLooks:
    """The detections of a clip's first frames, and a file that grows with them.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Reads what an earlier run left.

        Args:
            path: of the file; its folder is made.
            key: what the detections depend on; those of another key are forgotten.

        Raises:
            FaceListError: it cannot be read or written.
        """
        self.path = path
        self._rows: list[list[Face]] = []
        self._file: TextIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            good = [json.dumps({"key": key})]
            if lines[:1] == good:
                for line in lines[1:]:
                    try:
                        self._rows.append([Face(*one) for one in json.loads(line)])
                    except (ValueError, TypeError):  # torn by a crash
                        break
                    good.append(line)
            self._file = path.open("w", encoding="utf-8")
            self._file.write("".join(f"{line}\n" for line in good))
        except OSError as error:
            raise FaceListError(f"{brief_path(path)}: wanted to write it, got {error.strerror}") from None

    def get(self, frame: int) -> list[Face] | None:
        """What was found in a frame; None where it is to be looked at."""
        return self._rows[frame] if frame < len(self._rows) else None

    def add(self, frame: int, faces: Sequence[Face]) -> None:
        """Notes what was found; a frame that does not follow the last one ends the file.

        Args:
            frame: from 0.
            faces: in it.
        """
        if self._file is None or frame != len(self._rows):
            return
        rows = [[one.box.astype(float).tolist(), one.landmarks.astype(float).tolist(), one.score] for one in faces]
        self._rows.append(list(faces))
        try:
            self._file.write(json.dumps(rows) + "\n")
            self._file.flush()
        except OSError:  # a full disk; the run itself says so when it writes
            self._file = None

    def close(self) -> None:
        """Ends writing; what is there stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Removes the file, and its folder when nothing else is in it."""
        self.close()
        self.path.unlink(missing_ok=True)
        if not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
