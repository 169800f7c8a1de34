"""mkdocs hooks: adds the pages whose text lives elsewhere, the notebooks and the command line's help; mends links.

There is one copy of each text. Links are written as they work in the repository, and are turned here into links
between pages; what has no page loses its link.
"""

from __future__ import annotations

import base64
import io
import os
import posixpath
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).parent.parent
# By page: where its text is.
INCLUDED = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "crop-level.md": "pipelines/README.md",
    "model-card.md": "weights/README.md",
    "reporting.md": "SECURITY.md",
}
PAGES = {path: page for page, path in INCLUDED.items()} | {"README.md": "index.md"}
LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leaves out pages that are not written yet."""
    there = {*INCLUDED, "reference/cli.md", *(f"notebooks/{path.stem}.md" for path in _notebooks())}
    config.nav = _present(config.nav, there)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are no file of `docs/`."""
    for page, path in INCLUDED.items():
        files.append(File.generated(config, page, content=(CHECKOUT / path).read_text(encoding="utf-8")))
    for path in _notebooks():
        text, images = notebook_page(path, bool(config.extra["execute_notebooks"]))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, data in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages."""
    uri = page.file.src_uri
    home = posixpath.dirname(INCLUDED.get(uri, uri if uri.startswith("notebooks/") else f"docs/{uri}"))

    def moved(found: re.Match[str]) -> str:
        label, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(home, path))
        place = PAGES.get(path) or path.removeprefix("docs/")
        if place.startswith("notebooks/"):
            place = place.replace(".ipynb", ".md")
        if files.get_file_from_path(place) is None:
            return label[1:-1]
        keep = anchor and path != "README.md"
        return f"{label}({posixpath.relpath(place, posixpath.dirname(uri) or '.')}{f'#{anchor}' if keep else ''})"

    return LINK.sub(moved, markdown)


def notebook_page(path: Path, execute: bool) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown.

    Args:
        path: of the notebook, which is stored without outputs.
        execute: run it first, and show what comes out.

    Returns:
        the text, and the pictures it shows by their names.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if execute:
        from nbclient import NotebookClient

        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(CHECKOUT)}}).execute()
    parts, images = [], {}
    for cell in notebook.cells:
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if output.get("name") == "stderr":  # progress bars and warnings, with paths of this machine
                continue
            if "image/png" in data:
                name = f"{path.stem}_{len(images)}.png"
                images[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            elif "text/markdown" in data:
                parts.append(data["text/markdown"])
            elif data.get("text/html", "").startswith("<video"):
                parts.append(data["text/html"])
            elif text := output.get("text") or data.get("text/plain"):
                parts.append(f"```text\n{text.rstrip()}\n```")
    if not execute:
        parts.insert(1, "*Built without running it: `make docs` shows what comes out.*")
    return "\n\n".join(parts) + "\n", images


def command_line() -> str:
    """What every command says to `--help`, as Markdown."""
    os.environ["COLUMNS"] = "100"
    top, train = _help(), _help("train")
    parts = ["# Command line", "Made from `--help` when these pages are built.", f"```text\n{top}```"]
    for name in _commands(top):
        parts.append(f"## deid {name}\n\n```text\n{train if name == 'train' else _help(name)}```")
        if name == "train":
            parts += [f"### deid train {part}\n\n```text\n{_help('train', part)}```" for part in _commands(train)]
    return "\n\n".join(parts) + "\n"


def _help(*words: str) -> str:
    from deid_diffusion.cli import main

    with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        main([*words, "--help"])
    if not printed.getvalue().startswith("usage:"):
        raise RuntimeError(f"deid {' '.join(words)} --help printed no usage")
    return printed.getvalue().replace(str(Path.home()), "~")


def _commands(usage: str) -> list[str]:
    """Names of the commands in a usage: a list in braces, or the first words of an indented table."""
    braces = re.search(r"\{([\w,]+)\}", usage)
    return braces[1].split(",") if braces else re.findall(r"^  (\w+) ", usage, re.MULTILINE)


def _notebooks() -> list[Path]:
    return sorted((CHECKOUT / "notebooks").glob("*.ipynb"))


def _present(nav: Any, there: set[str]) -> Any:
    """A part of the navigation without pages that do not exist."""
    if isinstance(nav, str):
        return nav if nav in there or (CHECKOUT / "docs" / nav).exists() else None
    if isinstance(nav, dict):
        kept = {title: _present(part, there) for title, part in nav.items()}
        return {title: part for title, part in kept.items() if part} or None
    return [part for part in (_present(part, there) for part in nav) if part]
