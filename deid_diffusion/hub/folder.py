"""Builds the self-contained folder that goes to the Hub: weights, the pipeline's files, card, hashes, licence."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from huggingface_hub import ModelCardData

from ..weight_files import write_hashes

# Formats that run code when they are read.
PICKLES = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
TAGS = ("diffusers", "face-anonymization", "de-identification", "privacy", "inpainting")


@dataclass(frozen=True)
class Card:
    """Metadata of a model card, in the Hub's words.

    Attributes:
        license: a Hub licence identifier.
        language: of the card.
        base_model: Hub names of the checkpoints this one was made from.
        datasets: Hub names of the data.
        tags: what people search for.
    """

    license: str = "apache-2.0"
    language: str = "en"
    base_model: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = TAGS

    def header(self) -> str:
        """The card's YAML front matter."""
        data = ModelCardData(
            license=self.license,
            language=self.language,
            library_name="diffusers",
            pipeline_tag="image-to-image",
            tags=list(self.tags),
            base_model=list(self.base_model) or None,
            datasets=list(self.datasets) or None,
        )
        return f"---\n{data.to_yaml()}\n---\n"


def pipeline_files(name: str) -> list[Path]:
    """The pipeline's file and every sibling that it or a sibling imports, main file first."""
    from .. import pipelines

    root = Path(next(iter(pipelines.__path__)))
    todo, found = [name], {}
    while todo:
        stem = todo.pop()
        if stem in found:
            continue
        found[stem] = root / f"{stem}.py"
        tree = ast.parse(found[stem].read_text(encoding="utf-8"))
        todo += [
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        ]
    return [found[name], *sorted(path for stem, path in found.items() if stem != name)]


def build_folder(folder: Path, out: Path, repo_id: str, pipeline: str, card: Card) -> Path:
    """Writes the Hub folder of a checkpoint.

    Args:
        folder: what `save_pretrained` wrote; its README.md, if any, becomes part of the card.
        out: must not exist or be empty.
        repo_id: "org/name".
        pipeline: file of the pipeline, without the ending.
        card: metadata.

    Returns:
        `out`, whole: nothing half-written is left behind on failure.

    Raises:
        ValueError: `out` is not empty, or the checkpoint has files that are neither plain nor safetensors.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"the Hub folder is built in an empty place, {out} is not; remove it, or name another")
    unsafe = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in PICKLES or p.is_symlink()]
    if unsafe:
        raise ValueError(
            f"only plain files and safetensors are published, got {', '.join(unsafe)}; convert or remove them"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".publish-") as work:
        built = Path(work) / "folder"
        shutil.copytree(folder, built, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for path in pipeline_files(pipeline):
            shutil.copyfile(path, built / path.name)
        for path in built.rglob("*.json"):
            forget_origin(path)
        if not (built / "LICENSE").exists():
            (built / "LICENSE").write_text(licence_text(), encoding="utf-8")
        notes = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").exists() else ""
        (built / "README.md").unlink(missing_ok=True)
        (built / "README.md").write_text(card_text(built, repo_id, pipeline, card, notes), encoding="utf-8")
        write_hashes(built)
        if out.exists():
            out.rmdir()
        built.rename(out)
    return out


def card_text(built: Path, repo_id: str, pipeline: str, card: Card, notes: str) -> str:
    """Front matter, what the checkpoint's own card says, how to call it, and the hashes of its files.

    Args:
        built: the Hub folder, without its card yet.
        repo_id: "org/name".
        pipeline: file of the pipeline, without the ending.
        card: metadata.
        notes: what the checkpoint's own card says.
    """
    from .. import pipelines

    how_to = (Path(next(iter(pipelines.__path__))) / "README.md").read_text(encoding="utf-8")
    how_to = how_to.replace("org/name", repo_id).replace(
        'custom_pipeline="face_inpaint"', f'custom_pipeline="{pipeline}"'
    )
    files = sorted(p for p in built.rglob("*") if p.is_file() and p.name not in ("README.md", "SHA256SUMS"))
    rows = []
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(f"| `{path.relative_to(built).as_posix()}` | {path.stat().st_size:,} | `{digest}` |")
    table = "\n".join(["| file | bytes | sha256 |", "|---|---:|---|", *rows])
    body = notes.split("\n---\n", 1)[1] if notes.startswith("---\n") else notes
    return f"{card.header()}\n{body.strip() or f'# {repo_id}'}\n\n{how_to.strip()}\n\n## Files\n\n{table}\n"


def forget_origin(path: Path) -> None:
    """Takes out of a config where its weights lay on the machine that wrote it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def licence_text() -> str:
    """The project's licence, from the checkout or from the installed package.

    Raises:
        FileNotFoundError: neither has one.
    """
    checkout = Path(__file__).parent.parent.parent / "LICENSE"
    if checkout.is_file():
        return checkout.read_text(encoding="utf-8")
    try:
        files = distribution("deid-diffusion").files or []
    except PackageNotFoundError:
        files = []
    for entry in files:
        if entry.name == "LICENSE":
            return Path(entry.locate()).read_text(encoding="utf-8")
    raise FileNotFoundError("no LICENSE beside the package; put one into the folder that is published")


# Runs in a fresh interpreter in which our package cannot be imported.
_TRIAL = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "deid_diffusion":
            raise ImportError("the Hub folder must do without the package")

sys.meta_path.insert(0, Blocked())
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline=sys.argv[2], trust_remote_code=True)
print(type(pipe).__name__)
"""


def check_in_fresh_process(folder: Path, pipeline: str) -> str:
    """Loads a Hub folder as a stranger would: no package of ours, no network, an empty cache.

    Args:
        folder: the Hub folder.
        pipeline: file of the pipeline, without the ending.

    Returns:
        The name of the class that came out.

    Raises:
        ValueError: it does not load, with the last lines of why.
    """
    with tempfile.TemporaryDirectory() as home:
        offline = {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error"}
        command = [sys.executable, "-I", "-c", _TRIAL, str(folder.resolve()), pipeline]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, cwd=home)
    if done.returncode:
        raise ValueError(f"{folder} does not load on its own; it is not published:\n" + done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1]
