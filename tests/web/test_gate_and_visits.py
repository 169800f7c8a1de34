"""Who is let in, and what becomes of what they brought: without a browser and without a model."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deid_diffusion.web.gate import Gate, is_loopback
from deid_diffusion.web.sessions import Limits, Sessions, VisitError, safe_name


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
    await send({"type": "http.response.body", "body": b"hello"})


def ask(gate: Gate, path: str = "/", query: str = "", method: str = "GET", **headers: str) -> tuple[int, dict, bytes]:
    rows = {"host": "127.0.0.1:7860", **headers}
    scope = {
        "type": "http", "path": path, "query_string": query.encode(), "method": method,
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in rows.items()],
    }  # fmt: skip
    sent = []

    async def send(message):
        sent.append(message)

    # In a thread of its own: a browser's loop may run in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(gate(scope, None, send))).result()
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, sent[1]["body"]


def test_browsers_are_told_to_ask_nobody_else():
    status, headers, body = ask(Gate(hello))
    assert (status, body) == (200, b"hello")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    ["/docs", "/openapi.json", "/engine/", "/engine/gradio_api/upload", "/engine/gradio_api/file=/etc/passwd",
     "/engine/gradio_api/proxy=http://example.org", "/engine/gradio_api/info", "/engine/monitoring", "/x/../etc"],
)  # fmt: skip
def test_what_else_the_libraries_serve_is_not_reached(path):
    assert ask(Gate(hello), path)[0] == 404


def test_other_names_for_this_machine_and_other_pages_are_refused():
    """A page of somebody else's that makes its own name point here must not reach it."""
    assert ask(Gate(hello), host="evil.example:7860")[0] == 421
    assert ask(Gate(hello), host="")[0] == 421
    assert ask(Gate(hello), host="[::1]:7860")[0] == 200
    assert ask(Gate(hello), "/api/visit", method="POST", origin="http://evil.example")[0] == 403
    assert ask(Gate(hello), "/api/visit", method="POST", origin="http://127.0.0.1:7860")[0] == 200


def test_a_token_is_wanted_once():
    gate = Gate(hello, token="long secret")
    status, _, body = ask(gate, host="192.168.0.7:7860")
    assert status == 401
    assert b"wants the token" in body
    assert b"long secret" not in body
    assert ask(gate, "/api/visit")[0] == 401
    assert ask(gate, "/", "token=wrong")[0] == 401
    assert ask(gate, "/api/visit", "token=long+secret")[0] == 401  # only the page itself takes it
    status, headers, _ = ask(gate, "/", "token=long+secret")
    assert status == 303
    assert "HttpOnly" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert "long secret" not in cookie
    assert ask(gate, "/api/visit", cookie=cookie)[0] == 200
    assert ask(gate, "/api/visit", cookie=cookie + "x")[0] == 401


def test_large_requests_are_uploads_or_nothing():
    assert ask(Gate(hello), "/api/visit", content_length="3000000")[0] == 413
    assert ask(Gate(hello), "/api/upload", content_length="3000000")[0] == 200
    assert ask(Gate(hello), "/api/visit", content_length="many")[0] == 400


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("127.9.9.9", True), ("0.0.0.0", False),
     ("192.168.0.7", False), ("example.org", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_which_addresses_are_this_machine(host, local):
    assert is_loopback(host) is local


def test_a_visit_ends_when_the_page_is_left_or_after_an_hour():
    sessions = Sessions(Limits(leave_s=5, idle_s=3600))
    try:
        one, other = sessions.open(), sessions.open()
        for session in (one, other):
            (session.folder / "photo.jpg").write_bytes(b"a face")
        sessions.leave(one.secret)
        sessions.sweep()
        assert one.folder.exists()  # a page that is loaded again is back by then
        one.left_s = time.monotonic() - 6
        sessions.sweep()
        assert not one.folder.exists()
        assert sessions.find(one.secret) is None
        other.seen_s = time.monotonic() - 3599
        sessions.sweep()
        assert other.folder.exists()
        other.seen_s = time.monotonic() - 3601
        with sessions.working(other.secret):
            other.seen_s = time.monotonic() - 3601
            sessions.sweep()
            assert other.folder.exists()  # it is being worked on
        other.seen_s = time.monotonic() - 3601
        sessions.sweep()
        assert not other.folder.exists()
    finally:
        sessions.close()
    assert not sessions.root.exists()


def test_a_page_that_is_back_in_time_keeps_what_it_has():
    sessions = Sessions(Limits(leave_s=5))
    try:
        one = sessions.open()
        sessions.leave(one.secret)
        assert sessions.find(one.secret) is one
        assert one.left_s is None
    finally:
        sessions.close()


def test_folders_are_their_owners_alone_and_those_of_the_dead_go():
    # A process that was killed: its number is nobody's now.
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    orphan = Path(tempfile.mkdtemp(prefix=f"deid-web-{ended.pid}-"))
    (orphan / "photo.jpg").write_bytes(b"a face")
    alive = Path(tempfile.mkdtemp(prefix=f"deid-web-{os.getppid()}-"))
    sessions = Sessions(Limits())
    try:
        assert not orphan.exists()
        assert alive.exists()
        assert sessions.root.stat().st_mode & 0o077 == 0
    finally:
        sessions.close()
        alive.rmdir()


def test_there_are_only_so_many_visitors():
    sessions = Sessions(Limits(visitors=1))
    try:
        sessions.open()
        with pytest.raises(VisitError, match="at most 1 visitors"):
            sessions.open()
    finally:
        sessions.close()


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a.jpg", "a.jpg"), ("../../etc/passwd", "passwd"), ("C:\\temp\\me.png", "me.png"), ("", "file"), ("...", "file"),
     ("a\nb\x1b[31m.jpg", "a_b__31m.jpg"), ("<img src=x>.png", "_img src=x_.png"), ("é 東.webp", "é 東.webp"),
     ("x" * 300 + ".jpeg", "x" * 60 + ".jpeg")],
)  # fmt: skip
def test_names_of_files_are_only_names(name, safe):
    assert safe_name(name) == safe


def test_another_address_needs_a_token(capsys):
    from deid_diffusion.cli import main

    assert main(["web", "--host", "0.0.0.0"]) == 2
    assert "wanted --token SECRET" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(capsys):
    import socket

    from deid_diffusion.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["web", "--port", str(taken.getsockname()[1])]) == 2
    assert "give another --port" in capsys.readouterr().err
