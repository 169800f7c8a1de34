"""An evaluation on the page: two folders in, the report out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..evaluation.command import EvalOptions, run_eval
from ..evaluation.summary import headline
from ..weight_files import weights_dir

KINDS = ("originals", "outputs")


class Evaluation:
    """Two folders of pictures of the same names, and what judges say of them.

    Attributes:
        folder: of all of it.
    """

    def __init__(self, folder: Path) -> None:
        """Begins with two empty folders.

        Args:
            folder: an existing one.
        """
        self.folder = folder
        for kind in KINDS:
            (folder / kind).mkdir()

    def place(self, kind: str, parts: list[str]) -> Path:
        """Where a picture goes; its folder is made.

        Args:
            kind: one of KINDS.
            parts: of its path below the visitor's folder.
        """
        path = self.folder / (kind if kind in KINDS else KINDS[0]) / Path(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def judge(self) -> dict[str, Any]:
        """Runs the evaluation; the pictures are removed then.

        Raises:
            EvaluationError: no valid figure can be given.
        """
        originals, outputs = (self.folder / kind for kind in KINDS)
        try:
            (report,) = run_eval(EvalOptions(originals, (outputs,), self.folder / "out", id_encoder=_shipped()))
        finally:
            for kind in KINDS:
                shutil.rmtree(self.folder / kind, ignore_errors=True)
        return {"headline": headline(report), "people": report.people, "pictures": report.pictures}


def _shipped() -> Path | None:
    """The shipped pipeline, whose identity encoder may not judge; None in an installation without weights."""
    try:
        return weights_dir("face256")
    except FileNotFoundError:
        return None
