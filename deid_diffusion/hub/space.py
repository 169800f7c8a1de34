"""Builds a Space: the page of `deid web` with the package and the weights, as Hugging Face runs it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path

from .. import __version__
from ..models.checkpoint import check_weights, read_index
from ..weight_files import weights_dir
from .folder import licence_text, pipeline_files
from .publish import check_repo_id, upload

log = logging.getLogger(__name__)
SHIPPED = ("face256", "face_estimator", "centerface")
_APP = '''\
"""The page of deid web, as a Space. What is dropped is removed when the page is left."""

import os
from pathlib import Path

from deid_diffusion import FaceAnonymizer
from deid_diffusion.web.server import Place, serve
from deid_diffusion.web.sessions import Limits

MODEL = Path(__file__).parent / "model"

if __name__ == "__main__":
    # Hugging Face shows Spaces in a frame, under a name of their own. Whoever may see the Space may use the page.
    place = Place("0.0.0.0", int(os.environ.get("PORT", "7860")), framed_by="https://huggingface.co", any_host=True)
    limits = Limits(max_bytes=100_000_000, max_pixels=24_000_000, held_pixels=72_000_000, visitors=16)
    serve(lambda: FaceAnonymizer.from_pretrained(MODEL if MODEL.is_dir() else None), limits, place)
'''
_CARD = """\
---
title: deid_diffusion
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: apache-2.0
---

# Every face becomes somebody who does not exist

Drop a photo, look at each face, decide, and save a clean file. Made by `deid publish --space` of deid_diffusion
{version}.

**A Space is somebody else's machine.** What you drop is sent there; it is removed when you leave the page, and after
an hour. Pictures of people who did not agree belong on your own machine: install deid-diffusion[web], run `deid web`.
"""
_NEEDS = """
torch diffusers transformers accelerate safetensors numpy pillow opencv-python rich tifffile psutil onnxruntime onnx
onnxscript av pillow-heif"""
_TRIAL = """
import sys
sys.path.insert(0, sys.argv[1])
import app, deid_diffusion
assert deid_diffusion.__file__.startswith(sys.argv[1]), deid_diffusion.__file__
"""


def publish_space(
    folder: str | PathLike, repo_id: str, out: str | PathLike, dry_run: bool = False, private: bool = False
) -> str | Path:
    """Builds the folder of a Space, tries it in a fresh process, and uploads it.

    Args:
        folder: the pipeline's weights, e.g. weights/face256.
        repo_id: "org/name" of the Space.
        out: where the folder is built; must not exist or be empty.
        dry_run: build and try only.
        private: create the Space as a private one.

    Returns:
        The commit's address, or for a dry run the built folder.

    Raises:
        FileNotFoundError, ValueError: folder, name or token do not fit. Nothing is uploaded then.
    """
    check_repo_id(repo_id)
    folder, out = Path(folder), Path(out)
    check_weights(folder, read_index(folder))
    built = build_space(folder, out)
    if dry_run:
        return built
    return upload(built, repo_id, "Publish the page", private, repo_type="space", space_sdk="gradio")


def build_space(folder: Path, out: Path) -> Path:
    """Writes the folder of a Space: app.py, what it needs, the package and the weights.

    Args:
        folder: the pipeline's weights.
        out: must not exist or be empty.

    Returns:
        `out`, whole: nothing half-written is left behind on failure.

    Raises:
        ValueError: `out` is not empty, gradio is missing, or the page does not start there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"the Space is built in an empty place, {out} is not; remove it, or name another")
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        raise ValueError("a Space is tried before it is published: pip install 'deid-diffusion[web]'") from None
    package, ignored = (
        Path(__file__).parent.parent,
        shutil.ignore_patterns(".*", "__pycache__", "pipelines", "weights"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".publish-") as work:
        built = Path(work) / "folder"
        shutil.copytree(package, built / "deid_diffusion", ignore=ignored)
        (built / "deid_diffusion" / "pipelines").mkdir()
        for path in [package / "pipelines" / "__init__.py", *_pipeline_files()]:
            shutil.copyfile(path, built / "deid_diffusion" / "pipelines" / path.name)
        for name in SHIPPED:
            shutil.copytree(weights_dir(name), built / "deid_diffusion" / "weights" / name)
        if folder.resolve() != weights_dir("face256").resolve():
            shutil.copytree(folder, built / "model", ignore=shutil.ignore_patterns(".*", "__pycache__"))
        (built / "app.py").write_text(_APP, encoding="utf-8")
        (built / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")
        (built / "LICENSE").write_text(licence_text(), encoding="utf-8")
        (built / "README.md").write_text(_CARD.format(gradio=gradio, version=__version__), encoding="utf-8")
        _check(built)
        if out.exists():
            out.rmdir()
        built.rename(out)
    return out


def _pipeline_files() -> list[Path]:
    names = ("face_inpaint", "sd_face_inpaint", "sdxl_face_inpaint")
    return sorted({path for name in names for path in pipeline_files(name)})


def _requirements() -> list[str]:
    """The packages at the versions that were tried; gradio comes with the Space."""
    rows = []
    for name in _NEEDS.split():
        try:
            rows.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            log.debug("%s is not installed, and the Space does without it", name)
    return rows


def _check(built: Path) -> None:
    """Raises ValueError where the page's modules do not load from the folder alone."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-I", "-B", "-c", _TRIAL, str(built.resolve())]
        offline = {"HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, cwd=home)
    if done.returncode:
        raise ValueError("the Space does not start on its own; it is not published:\n" + done.stderr[-2000:])
