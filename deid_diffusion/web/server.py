"""Serves the page: FastAPI for files, gradio's queue for everything that needs the model."""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse, Response

from ..anonymizer import FaceAnonymizer
from .desk import Desk
from .evaluations import Evaluation
from .gate import Gate
from .photos import CANDIDATES, DECISIONS, Photo, ranges
from .sessions import Limits, Session, Sessions, VisitError, safe_name

log = logging.getLogger(__name__)
PAGES = Path(__file__).parent / "pages"
SWEEP_S = 5.0
GONE = "wanted an open page, got one whose files were removed meanwhile; load the page again"


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


def build(load: Callable[[], FaceAnonymizer], limits: Limits, place: Place) -> Any:
    """The ASGI application.

    Args:
        load: makes the anonymizer; called once, in the background.
        limits: of each visitor.
        place: whom it lets in.
    """
    sessions = Sessions(limits)
    desk = Desk(load, sessions)

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
    _add_pages(app)
    _add_visits(app, sessions)
    _add_files(app, sessions)
    engine = gradio.mount_gradio_app(app, _queue(desk), path="/engine", ssr_mode=False, mcp_server=False)
    return Gate(engine, place.token, place.framed_by, place.any_host)


def serve(load: Callable[[], FaceAnonymizer], limits: Limits, place: Place) -> None:
    """Serves until the process is asked to end; then everything that visitors brought is removed.

    Args:
        load: makes the anonymizer.
        limits: of each visitor.
        place: where, and to whom.
    """
    app = build(load, limits, place)
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


def _add_pages(app: FastAPI) -> None:
    @app.get("/")
    def index() -> Response:
        return FileResponse(PAGES / "index.html", media_type="text/html")

    @app.get("/pages/{name}")
    def page(name: str) -> Response:
        if name not in {path.name for path in PAGES.iterdir()}:
            return Response(status_code=404)
        return FileResponse(PAGES / name, media_type=mimetypes.guess_type(name)[0] or "text/plain")


def _add_visits(app: FastAPI, sessions: Sessions) -> None:
    limits = sessions.limits

    @app.post("/api/visit")
    async def visit(request: Request) -> Response:
        found = sessions.find(request.headers.get("x-deid-visit"))
        try:
            session = found or sessions.open()
        except VisitError as error:
            return _refused(str(error), 503)
        about = {"secret": session.secret, "key": session.key, "new": found is None, "limits": asdict(limits)}
        return JSONResponse({**about, "ranges": ranges(), "decisions": DECISIONS, "candidates": CANDIDATES})

    @app.post("/api/leave")
    async def leave(request: Request) -> Response:
        # A page that is being closed can send a body, and no header.
        sessions.leave((await request.body()).decode("latin-1"))
        return Response(status_code=204)

    @app.get("/api/progress")
    async def progress(request: Request) -> Response:
        session = _visitor(request, sessions)
        return JSONResponse({} if session is None else {"share": session.progress[0], "text": session.progress[1]})

    @app.post("/api/cancel")
    async def cancel(request: Request) -> Response:
        if session := _visitor(request, sessions):
            session.cancelled = True
        return Response(status_code=204)

    @app.delete("/api/visit")
    async def end(request: Request) -> Response:
        if session := _visitor(request, sessions):
            await asyncio.to_thread(sessions.end, session)
        return Response(status_code=204)

    @app.delete("/api/items/{number}")
    async def remove(request: Request, number: str) -> Response:
        session = _visitor(request, sessions)
        if session is not None and session.items.pop(number, None) is not None:
            shutil.rmtree(session.folder / number, ignore_errors=True)
        return Response(status_code=204)


def _add_files(app: FastAPI, sessions: Sessions) -> None:
    @app.post("/api/upload")
    async def upload(request: Request) -> Response:
        session = _visitor(request, sessions)
        if session is None:
            return _refused(GONE, 403)
        kind, group = request.query_params.get("kind", ""), request.query_params.get("group", "")
        *_, name = parts = [safe_name(part) for part in request.query_params.get("name", "").split("/")]
        try:
            evaluation = session.item(Evaluation, group) if group else None
            number, folder = (group, None) if group else _new_folder(session, sessions.limits, name)
            path = folder / name if folder is not None else evaluation.place(kind, parts[1:] or parts)
            await _receive(request, path, sessions.limits)
        except VisitError as error:
            return _refused(str(error), 413)
        if folder is not None:
            session.items[number] = Photo(path)
        return JSONResponse({"id": number, "name": name})

    @app.post("/api/evaluations")
    async def evaluation(request: Request) -> Response:
        session = _visitor(request, sessions)
        if session is None:
            return _refused(GONE, 403)
        number, folder = _new_folder(session, sessions.limits, "evaluation")
        session.items[number] = Evaluation(folder)
        return JSONResponse({"id": number})

    @app.get("/api/report/{key}/{number}/{name}")
    async def report(key: str, number: str, name: str) -> Response:
        session = sessions.find_by_key(key)
        found = session.items.get(number) if session else None
        if not isinstance(found, Evaluation) or name not in ("report.html", "eval.json"):
            return Response(status_code=404)
        path = found.folder / "out" / name
        return FileResponse(path) if path.is_file() else Response(status_code=404)

    @app.get("/api/photos/{number}/{name}")
    async def photo(request: Request, number: str, name: str) -> Response:
        session = _visitor(request, sessions)
        found = session.items.get(number) if session else None
        if not isinstance(found, Photo):
            return Response(status_code=404)
        if name == "file" and found.result is not None:
            return FileResponse(found.out_path, filename=found.out_path.name)
        data = found.images.get(name)
        return Response(data, media_type="image/jpeg") if data else Response(status_code=404)

    @app.get("/api/files/{name}")
    async def file(request: Request, name: str) -> Response:
        session = _visitor(request, sessions)
        if session is None or name not in ("report.json", "all.zip") or not (session.folder / name).is_file():
            return Response(status_code=404)
        return FileResponse(session.folder / name, filename=name)


def _new_folder(session: Session, limits: Limits, name: str) -> tuple[str, Path]:
    """A new number, and the folder of what will have it.

    Raises:
        VisitError: there are too many.
    """
    if len(session.items) >= limits.items:
        raise VisitError(f"{name}: wanted at most {limits.items} files, got one more; remove some, or use deid run")
    folder = session.folder / secrets.token_urlsafe(12)
    folder.mkdir()
    return folder.name, folder


async def _receive(request: Request, path: Path, limits: Limits) -> None:
    """Writes what is uploaded, whole or not at all.

    Raises:
        VisitError: it is too large.
    """
    told, size = int(request.headers.get("content-length") or 0), 0
    try:
        with path.open("xb") as file:
            async for block in request.stream():
                size += len(block)
                if max(size, told) > limits.max_bytes:
                    raise VisitError(
                        f"{path.name}: wanted at most {limits.max_bytes / 1e6:,.0f} MB, got "
                        f"{max(size, told) / 1e6:,.0f} MB; deid web --max-mb N raises the limit, and deid run has none"
                    )
                await asyncio.to_thread(file.write, block)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _visitor(request: Request, sessions: Sessions) -> Session | None:
    return sessions.find(request.headers.get("x-deid-visit"))


def _refused(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status_code=status)
