"""Runs `deid web`: a page in the browser, on this machine alone unless a token says otherwise."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import sys
from typing import Any

from . import complain
from .options import BACKENDS, Parser, natural

_TEXT = """\
Opens a page in the browser: drop photos or clips, look at every face, decide, download.

Nothing leaves the machine, and what was brought is removed when the page is closed, when this ends, or after an hour
without a request.
"""


def main(argv: list[str]) -> int:
    """Returns 0 when asked to end, 2 when it cannot begin."""
    options = _parser().parse_args(argv)
    missing = [name for name in ("gradio", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        return complain(f"deid web needs {missing[0]}; pip install 'deid-diffusion[web]'", 2)
    from deid_diffusion.web.gate import is_loopback

    if not is_loopback(options.host) and not options.token:
        return complain(
            f"--host {options.host} lets other machines in: wanted --token SECRET with it, got none; everybody who "
            "opens the page must know it",
            2,
        )
    if problem := _unfit(options.host, options.port):
        return complain(problem, 2)
    from deid_diffusion.methods.pseudonyms import PseudonymError, Pseudonyms
    from deid_diffusion.web.server import Place, serve
    from deid_diffusion.web.sessions import Limits

    try:
        pseudonyms = Pseudonyms(options.key) if options.key else None
    except PseudonymError as error:
        return complain(str(error), 2)
    limits = Limits(max_bytes=options.max_mb * 1_000_000, max_pixels=options.max_pixels)
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"deid: http://{host}:{options.port}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if not is_loopback(options.host):
        print("deid: other machines see what is sent over plain http; see docs/how-to/web.md", file=sys.stderr)
    if options.open:
        import webbrowser

        webbrowser.open(f"http://{host}:{options.port}/")
    serve(lambda: _load(options), limits, Place(options.host, options.port, options.token), pseudonyms)
    return 0


def _load(options: argparse.Namespace) -> Any:
    from deid_diffusion import FaceAnonymizer

    return FaceAnonymizer.from_pretrained(options.model, device=options.device, backend=options.backend)


def _unfit(host: str, port: int) -> str:
    """Why nothing can be served there; empty when it can."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family[0], socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(family[4])
    except (OSError, OverflowError) as error:
        got = getattr(error, "strerror", None) or error
        return f"wanted to listen at {host}:{port}, got {got}; give another --port or --host"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "deid web", description=_TEXT, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at; another than this machine's own needs --token")
    add("--port", type=natural, default=7860, help="to listen at (7860)")
    add("--token", default="", metavar="SECRET", help="that every browser must show once")
    add("--open", action="store_true", help="open the page in this machine's browser")
    add("--max-pixels", type=natural, default=50_000_000, metavar="N", help="refuse photos of more (50 million)")
    add("--max-mb", type=natural, default=500, metavar="N", help="refuse files of more megabytes (500)")
    add("--key", metavar="FILE", help="the same person becomes the same stranger in all that is brought here")
    add("--model", metavar="NAME", help="weights folder, or ORG/NAME on the Hub to download (the shipped one)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    add("--backend", choices=BACKENDS, default="auto", help="what runs the model, as for deid run (auto)")
    return parser
