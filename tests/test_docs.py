"""The pages build without a warning, ask nobody for anything, and say what the commands and the code say."""

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from deid_diffusion import cli
from deid_diffusion.cli import compare, eval, options, publish, web

CHECKOUT = Path(__file__).parent.parent
PAGES = sorted((CHECKOUT / "docs").rglob("*.md"))
BLOCK = re.compile(r"```(\w+)\n(.*?)```\n", re.DOTALL)
PARSERS = {"compare": compare._parser, "eval": eval._parser, "publish": publish._parser, "web": web._parser}


def blocks(page: Path, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == kind]


def commands() -> list[str]:
    """Every line of a shell block that calls `deid`."""
    lines = "\n".join(text for page in PAGES for text in blocks(page, "sh")).replace("\\\n", " ")
    return [line for line in lines.splitlines() if re.match(r"deid (run|eval|compare|publish|web) ", line)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(name, reason="needs mkdocs-material and mkdocstrings; pip install '.[docs]'")
    out = tmp_path_factory.mktemp("docs") / "site"
    # Without the notebooks' outputs: tests/test_notebooks.py runs them.
    env = os.environ | {"DEID_DOCS_EXECUTE": "false", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_page_is_there(site):
    for page in PAGES:
        assert (site / page.relative_to(CHECKOUT / "docs")).with_suffix(".html").exists()
    for name in ("model-card", "changelog", "contributing", "notebooks/01_one_photo", "reference/cli"):
        assert (site / f"{name}.html").exists()
    assert not list(site.rglob("*.py"))


def test_pages_ask_nobody_for_anything(site):
    loads = re.compile(r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?https?://""")
    for path in site.rglob("*.html"):
        assert not loads.search(path.read_text(encoding="utf-8")), path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path


def test_the_command_line_page_has_every_command_and_option(site):
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for name in (*cli._COMMANDS, "train inpaint"):
        assert f">deid {name}<" in text
    for option in ("--redact-with", "--except", "--gallery", "--dry-run", "--minutes"):
        assert option in text


def test_the_reference_has_what_can_be_imported(site):
    import deid_diffusion

    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    for name in deid_diffusion.__all__:
        assert name == "__version__" or re.search(rf'id="[\w.]+\.{name}"', text), name


def test_one_copy_of_the_card_is_shown(site):
    text = (site / "model-card.html").read_text(encoding="utf-8")
    for heading in re.findall(r"^## (.+)$", (CHECKOUT / "weights" / "README.md").read_text(), re.MULTILINE):
        assert heading in text


def test_a_notebook_shows_what_comes_out_and_no_more(tmp_path, monkeypatch):
    pytest.importorskip("mkdocs", reason="needs mkdocs-material and mkdocstrings; pip install '.[docs]'")
    monkeypatch.syspath_prepend(str(CHECKOUT / "docs"))
    said = "print('said')\nprint('noise', file=sys.stderr)"
    lines = f"import sys\nfrom PIL import Image\n{said}\nImage.new('RGB', (3, 2))"
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell(lines)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    text, images = import_module("hooks").notebook_page(tmp_path / "one.ipynb", execute=True)
    assert text.startswith("# Title\n\n```python\nimport sys\n")
    assert "```text\nsaid\n```\n\n![Output of the cell above](one_0.png)" in text
    assert text.count("noise") == 1
    assert Image.open(io.BytesIO(images["one_0.png"])).size == (3, 2)


@pytest.mark.parametrize("line", commands())
def test_command_lines_parse(line):
    _, name, *words = shlex.split(line, comments=True)
    if words == ["--set", "help"]:
        assert ("help", None) in options.parse(words).set
        return
    words = [re.sub(r"^\$\(.*\)$", "7", word) for word in words]
    parsed = options.parse(words) if name == "run" else PARSERS[name]().parse_args(words)
    assert isinstance(parsed, argparse.Namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_compile_and_import_what_is_there(page):
    for text in blocks(page, "python"):
        compile(text, page.name, "exec")
        for module, names in re.findall(r"^from (deid_diffusion[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
            assert all(hasattr(import_module(module), name) for name in names.split(", "))


def test_the_pages_about_stages_methods_and_policies_run(tmp_path, astronaut, anonymizer, monkeypatch):
    Image.fromarray(astronaut[0:256, 96:352]).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(anonymizer), "from_pretrained", lambda: anonymizer)
    known = {"__name__": "page", "anonymize": anonymizer}
    for name in ("photos", "methods", "own-method"):
        for text in blocks(CHECKOUT / "docs" / "how-to" / f"{name}.md", "python"):
            exec(compile(text, name, "exec"), known)
        assert name == "photos" or [face.outcome.value for face in known["result"].faces] == ["replaced"]
    assert {path.name for path in tmp_path.glob("*0.jpg")} == {"20.jpg", "40.jpg", "60.jpg"}
