"""A Space's folder: built, tried alone, and served as Hugging Face would."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from deid_diffusion.cli import main

pytest.importorskip("gradio", reason="needs gradio; pip install 'deid-diffusion[web]'")


def test_the_space_is_whole_and_serves_the_page(weights, tmp_path, capsys):
    out = tmp_path / "space"
    assert main(["publish", str(weights / "face256"), "org/page", "--space", "--dry-run", "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "deid_diffusion"} == {p.name for p in out.iterdir()}
    assert "sdk: gradio" in (out / "README.md").read_text()
    assert "torch==" in (out / "requirements.txt").read_text()
    assert not list(out.rglob("__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port), "PYTHONPATH": "", "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "app.py"], cwd=out, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            address, until = f"http://127.0.0.1:{port}/", time.monotonic() + 120
            while True:
                try:
                    with urllib.request.urlopen(
                        urllib.request.Request(address, headers={"Host": "o.hf.space"})
                    ) as page:
                        assert b"/pages/app.js" in page.read()
                        assert "frame-ancestors https://huggingface.co" in page.headers["content-security-policy"]
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.2)
        finally:
            process.terminate()
            process.wait(60)
    assert not list(tmp_path.glob("deid-web-*"))  # ended by a signal, it has left nothing


def test_a_full_place_is_not_overwritten(weights, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["publish", str(weights / "face256"), "org/page", "--space", "--dry-run", "-o", str(tmp_path)]) == 2
    assert "is built in an empty place" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
