"""Has MediaPipe's FaceMesh find landmarks, in a Python of its own: it wants older packages than everything else here.

    python -m venv facemesh && facemesh/bin/pip install "mediapipe==0.10.14" "numpy<2"

As a script this file is the other side: run by that Python, it reads pictures and writes landmarks through pipes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile

import numpy as np

LANDMARKS = 478
SEEN = 512  # px: side of the pictures that go through the pipe
_INSTALL = 'pip install "mediapipe==0.10.14" "numpy<2" into a virtual environment and give its bin/python'


class FaceMesh:
    """The 478 landmarks of the face in a square picture; runs another process until it is closed."""

    def __init__(self, python: str):
        """Starts `python`, a Python interpreter that has mediapipe.

        Raises:
            FileNotFoundError: no such interpreter.
            ValueError: it has no mediapipe.
        """
        if shutil.which(python) is None:
            raise FileNotFoundError(f"wanted a Python with mediapipe, got {python}, which is no program; {_INSTALL}")
        # Isolated, or it would take the modules beside this file for its own. A file takes its notes: a pipe that
        # nobody empties would stop it.
        notes = tempfile.TemporaryFile()
        command = [python, "-I", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=notes)
        assert self._process.stdin is not None  # both are pipes
        assert self._process.stdout is not None
        self._pictures, self._answers = self._process.stdin, self._process.stdout
        if self._answers.readline().strip() != b"ready":
            self._process.wait(timeout=30)
            notes.seek(0)
            said = notes.read().decode(errors="replace").strip().splitlines()
            raise ValueError(
                f"wanted a Python with mediapipe, got {python}: {said[-1] if said else 'it said nothing'}; {_INSTALL}"
            )

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        """(512, 512, 3) uint8 RGB -> (478, 3) float32 x y z in its pixels, None where no face is found.

        Raises:
            ValueError: an image of another shape or type.
            RuntimeError: the other process ended.
        """
        if image.shape != (SEEN, SEEN, 3) or image.dtype != np.uint8:
            raise ValueError(f"image must be ({SEEN}, {SEEN}, 3) uint8, got {image.shape} {image.dtype}; resize it")
        self._pictures.write(image.tobytes())
        self._pictures.flush()
        answer = self._answers.read(LANDMARKS * 3 * 4)
        if len(answer) != LANDMARKS * 3 * 4:
            raise RuntimeError("the Python with mediapipe ended; see whether it was killed for memory, and run again")
        points = np.frombuffer(answer, np.float32).reshape(LANDMARKS, 3)
        return points.copy() if np.isfinite(points).all() else None

    def close(self) -> None:
        """Ends the other process."""
        self._pictures.close()
        self._process.wait(timeout=30)


def serve() -> None:
    """Pictures from stdin to landmarks on stdout, until there are no more."""
    import os

    # What MediaPipe prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import mediapipe

    find = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)
    answers.write(b"ready\n")
    answers.flush()
    while len(raw := sys.stdin.buffer.read(SEEN * SEEN * 3)) == SEEN * SEEN * 3:
        found = find.process(np.frombuffer(raw, np.uint8).reshape(SEEN, SEEN, 3).copy()).multi_face_landmarks
        points = [[p.x, p.y, p.z] for p in found[0].landmark] if found else [[np.nan] * 3] * LANDMARKS
        answers.write((np.array(points, np.float32) * SEEN).tobytes())
        answers.flush()


if __name__ == "__main__":
    serve()
