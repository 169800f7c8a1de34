"""The page, served by this process on a free port, and a real browser to look at it."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="needs gradio; pip install 'deid-diffusion[web]'")

from deid_diffusion.web.server import Place, build
from deid_diffusion.web.sessions import Limits

CHROMIUM = os.environ.get("DEID_CHROMIUM", "/usr/bin/chromium")
WAIT_MS = 120_000  # of a machine that others use, too


@pytest.fixture(scope="session")
def outside() -> list:
    """Every address off this machine that this process connects to while the page is up."""
    return []


@pytest.fixture(scope="session")
def page_url(anonymizer, outside):
    """Address of the page; small limits, so that a test reaches them."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connect = socket.socket.connect

    def watched(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            outside.append(address)
        return connect(self, address)

    socket.socket.connect = watched
    limits = Limits(max_bytes=20_000_000, max_pixels=50_000_000, leave_s=1.0)
    app = build(lambda: anonymizer, limits, Place(port=port))
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)
    socket.socket.connect = connect


@pytest.fixture(scope="package")  # while it is open, nobody else can run asyncio in this thread
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright; pip install 'deid-diffusion[test]'"
    )
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}, or DEID_CHROMIUM that says where it is")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser, page_url):
    """Opens pages, each of another person; none of them may ask anybody but the server for anything."""
    contexts, asked, errors = [], [], []

    def open_page(**how):
        context = browser.new_context(accept_downloads=True, **how)
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(page_url)
        page.wait_for_selector("#first-photos", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    foreign = [url for url in asked if not url.startswith((f"{page_url}/", f"blob:{page_url}/", "data:"))]
    assert not foreign
    assert not errors
    assert any(url.endswith("/pages/app.js") for url in asked)  # or nothing was watched
