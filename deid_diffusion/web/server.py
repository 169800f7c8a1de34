"""Serves the page: FastAPI for files, gradio's queue for everything that needs the model."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI

from ..anonymizer import FaceAnonymizer
from ..methods.pseudonyms import Pseudonyms
from .desk import Desk
from .gate import Gate
from .routes import Routes
from .sessions import Limits, Sessions

log = logging.getLogger(__name__)
SWEEP_S = 5.0


@dataclass(frozen=True)
class Place:
    """Where the page is served, and to whom.

    Attributes:
        host, port: to listen at; port 0 takes a free one.
        token: that every browser must show once; empty for none.
        framed_by: who may frame the page, as a Content-Security-Policy says it.
        any_host: whether requests may name the page as they like: behind a proxy of its own name.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    token: str = ""
    framed_by: str = "'none'"
    any_host: bool = False


def build(
    load: Callable[[], FaceAnonymizer], limits: Limits, place: Place, pseudonyms: Pseudonyms | None = None
) -> Any:
    """The ASGI application.

    Args:
        load: makes the anonymizer; called once, in the background.
        limits: of each visitor.
        place: whom it lets in.
        pseudonyms: a key by which everybody becomes the same stranger in all that is brought here.
    """
    sessions = Sessions(limits)
    desk = Desk(load, sessions, pseudonyms)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=_warm_up, args=(desk,), daemon=True).start()
        sweeper = asyncio.create_task(_sweep(sessions))
        try:
            yield
        finally:
            sweeper.cancel()
            sessions.close()

    app = FastAPI(lifespan=life, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.routes.extend(Routes(sessions, pseudonyms is not None).all())
    engine = gradio.mount_gradio_app(app, _queue(desk), path="/engine", ssr_mode=False, mcp_server=False)
    return Gate(engine, place.token, place.framed_by, place.any_host)


def serve(
    load: Callable[[], FaceAnonymizer], limits: Limits, place: Place, pseudonyms: Pseudonyms | None = None
) -> None:
    """Serves until the process is asked to end; then everything that visitors brought is removed.

    Args:
        load: makes the anonymizer.
        limits: of each visitor.
        place: where, and to whom.
        pseudonyms: as for `build`.
    """
    app = build(load, limits, place, pseudonyms)
    config = uvicorn.Config(
        app, place.host, place.port, log_level="warning", access_log=False, timeout_graceful_shutdown=1,
        server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run()


def _queue(desk: Desk) -> gradio.Blocks:
    """gradio's part: one function behind a queue that tells everybody their place."""

    def work(secret: str, action: str, values: dict) -> dict:
        return desk.do(secret, action, values)

    with gradio.Blocks(analytics_enabled=False) as blocks:
        gradio.api(work, api_name="work", concurrency_limit=1, api_visibility="undocumented")
    return blocks.queue(max_size=64, api_open=False)


def _warm_up(desk: Desk) -> None:
    try:
        _ = desk.anonymizer
    except Exception:
        log.exception("loading the model failed")  # whoever asks for it is told why


async def _sweep(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(min(SWEEP_S, sessions.limits.leave_s))
        await asyncio.to_thread(sessions.sweep)
