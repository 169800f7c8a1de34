"""Every line of the README that can run here does, and it stays short enough to be read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- test: skip, (?P<why>.+?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```\n", re.DOTALL)
BLOCKS = [found.groupdict() for found in BLOCK.finditer(README)]
SHELL = [
    line.partition(" #")[0].strip()
    for block in BLOCKS
    if block["kind"] == "sh" and not block["why"]
    for line in block["text"].splitlines()
]
PYTHON = "\n".join(block["text"] for block in BLOCKS if block["kind"] == "python" and not block["why"])


@pytest.fixture(scope="module")
def place(tmp_path_factory, astronaut, weights) -> Path:
    """A folder with all that the README's lines name, and a `deid` that is this checkout's."""
    folder = tmp_path_factory.mktemp("readme")
    face = astronaut[0:256, 96:352]
    (folder / "holiday" / "beach").mkdir(parents=True)
    for name in ("photo.jpg", "party.jpg", "me.jpg", "holiday/one.jpg", "holiday/beach/two.jpg"):
        Image.fromarray(face).save(folder / name, quality=95)
    Image.fromarray(astronaut).crop((140, 21, 311, 192)).resize((256, 256)).save(folder / "crop.png")
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).ellipse((58, 62, 200, 232), fill=255)
    mask.save(folder / "mask.png")
    for name in ("weights", "pipelines"):
        (folder / name).symlink_to(CHECKOUT / name)
    command = folder / "bin" / "deid"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deid_diffusion "$@"\n')
    command.chmod(0o755)
    return folder


def run(command: list[str], folder: Path) -> str:
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, env=os.environ | paths, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_is_read_in_five_minutes():
    assert len(README.split()) <= 1000


def test_it_names_no_index_that_the_package_is_not_on():
    assert not re.search(r"pip install [\"']?deid-diffusion(\[\w+\])?[\"']?$", README, re.MULTILINE)


def test_what_is_left_out_here_says_why():
    assert {block["why"] for block in BLOCKS if block["why"]} == {"needs the network", "needs the Hub and a GPU"}
    assert len(SHELL) >= 7
    assert PYTHON.count("import") >= 3


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README))
def test_its_links_lead_somewhere(target):
    assert (CHECKOUT / target).exists()


@pytest.mark.parametrize("line", SHELL)
def test_each_shell_line_runs(line, place):
    if line.startswith("make "):
        # What it would do is tested elsewhere; here, that there is such a target and it can be made.
        run([*line.split(), "--dry-run", "-C", str(CHECKOUT)], place)
        return
    printed = run(["bash", "-c", line], place)
    assert re.search(r"1 (kept|redacted)" if "--except" in line or "--method" in line else "1 replaced", printed)
    named = re.search(r" -o (\S+)", line)
    assert (place / (named[1] if named else re.sub(r".* (\S+)\.jpg.*", r"\1_anon.jpg", line.split(" --")[0]))).exists()


def test_the_python_blocks_run_one_after_the_other(place):
    checks = """
import numpy as np
assert [face.outcome.value for face in result.faces] == ["replaced"]
known = np.asarray(mask) == 0
assert (np.asarray(new)[known] == np.asarray(crop)[known]).all()
assert (np.asarray(new)[~known] != np.asarray(crop)[~known]).mean() > 0.5
"""
    run([sys.executable, "-c", PYTHON + checks], place)
    assert np.asarray(Image.open(place / "1.png")).shape == (256, 256, 3)
