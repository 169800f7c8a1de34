"""The page's own addresses: its files, visits, uploads, and what visitors brought and made."""

from __future__ import annotations

import asyncio
import mimetypes
import secrets
import shutil
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .choices import CANDIDATES, ranges
from .clips import Clip
from .evaluations import Evaluation
from .photos import Photo
from .sessions import Session, Sessions, VisitError, safe_name

PAGES = Path(__file__).parent / "pages"
GONE = "wanted an open page, got one whose files were removed meanwhile; load the page again"
_NOTHING = Response(status_code=204)


class Routes:
    """Answers requests that need no model. Whoever asks says who they are in a header, never in an address."""

    def __init__(self, sessions: Sessions, has_key: bool = False) -> None:
        """Nothing is served yet.

        Args:
            sessions: the visitors.
            has_key: whether everybody becomes the same stranger each time.
        """
        self.sessions, self.has_key = sessions, has_key

    def all(self) -> list[Route]:
        """Every address and what answers."""
        return [
            Route("/", self.page),
            Route("/pages/{name}", self.page),
            Route("/api/visit", self.visit, methods=["POST"]),
            Route("/api/visit", self.end, methods=["DELETE"]),
            Route("/api/leave", self.leave, methods=["POST"]),
            Route("/api/cancel", self.cancel, methods=["POST"]),
            Route("/api/progress", self.progress),
            Route("/api/upload", self.upload, methods=["POST"]),
            Route("/api/evaluations", self.evaluation, methods=["POST"]),
            Route("/api/items/{number}", self.remove, methods=["DELETE"]),
            Route("/api/photos/{number}/{name}", self.photo),
            Route("/api/clips/{number}/{name}", self.clip),
            Route("/api/files/{name}", self.file),
            Route("/api/report/{key}/{number}/{name}", self.report),
            Route("/api/play/{key}/{number}/{name}", self.play),
        ]

    async def page(self, request: Request) -> Response:
        """The page, its script, style and icons.

        Args:
            request: of a browser.
        """
        name = request.path_params.get("name", "index.html")
        if name not in {path.name for path in PAGES.iterdir()}:
            return Response(status_code=404)
        return FileResponse(PAGES / name, media_type=mimetypes.guess_type(name)[0] or "text/plain")

    async def visit(self, request: Request) -> Response:
        """Begins a visit, or goes on with one.

        Args:
            request: of a page that was loaded.
        """
        found, limits = self._visitor(request), self.sessions.limits
        try:
            session = found or self.sessions.open()
        except VisitError as error:
            return _refused(str(error), 503)
        about = {"secret": session.secret, "key": session.key, "new": found is None, "limits": asdict(limits)}
        heic = find_spec("pillow_heif") is not None
        about |= {"candidates": CANDIDATES, "ranges": ranges(), "has_key": self.has_key, "heic": heic}
        return JSONResponse(about)

    async def leave(self, request: Request) -> Response:
        """Notes that a page was closed: such a page can send a body, and no header.

        Args:
            request: with the visitor's secret.
        """
        self.sessions.leave((await request.body()).decode("latin-1"))
        return _NOTHING

    async def end(self, request: Request) -> Response:
        """Removes all that a visitor brought.

        Args:
            request: of the visitor.
        """
        if session := self._visitor(request):
            await asyncio.to_thread(self.sessions.end, session)
        return _NOTHING

    async def cancel(self, request: Request) -> Response:
        """Stops a job.

        Args:
            request: of the visitor, with the job's name in its query.
        """
        if session := self._visitor(request):
            session.stop(request.query_params.get("job", ""))
        return _NOTHING

    async def progress(self, request: Request) -> Response:
        """How far it is.

        Args:
            request: of the visitor.
        """
        session = self._visitor(request)
        share, text = (0.0, "") if session is None else session.progress
        return JSONResponse({"share": share, "text": text})

    async def upload(self, request: Request) -> Response:
        """Takes a file, whole or not at all.

        Args:
            request: of the visitor, with the file's name and kind in its query, and the evaluation that it is for.
        """
        session = self._visitor(request)
        if session is None:
            return _refused(GONE, 403)
        kind, group = request.query_params.get("kind", ""), request.query_params.get("group", "")
        *_, name = parts = [safe_name(part) for part in request.query_params.get("name", "").split("/")]
        try:
            if group:
                path = session.item(Evaluation, group).place(kind, parts[1:] or parts)
                await self._receive(request, path)
                return JSONResponse({"id": group, "name": name})
            path = self._new_folder(session, name) / name
            await self._receive(request, path)
        except VisitError as error:
            return _refused(str(error), 413)
        number = path.parent.name
        session.items[number] = {"clip": Clip, "list": Path}.get(kind, Photo)(path)
        return JSONResponse({"id": number, "name": name})

    async def evaluation(self, request: Request) -> Response:
        """Begins an evaluation, to which two folders are uploaded.

        Args:
            request: of the visitor.
        """
        session = self._visitor(request)
        if session is None:
            return _refused(GONE, 403)
        folder = self._new_folder(session, "evaluation")
        session.items[folder.name] = Evaluation(folder)
        return JSONResponse({"id": folder.name})

    async def remove(self, request: Request) -> Response:
        """Removes a photo or clip and all that was made of it.

        Args:
            request: of the visitor.
        """
        session, number = self._visitor(request), request.path_params["number"]
        if session is not None and session.items.pop(number, None) is not None:
            session.cancelled |= session.working_on == number
            await asyncio.to_thread(shutil.rmtree, session.folder / number, ignore_errors=True)
        return _NOTHING

    async def photo(self, request: Request) -> Response:
        """A picture that the page shows, or the finished file.

        Args:
            request: of the visitor.
        """
        found, name = self._item(request, Photo), request.path_params["name"]
        if found is not None and name == "file" and found.result is not None:
            return FileResponse(found.out_path, filename=found.out_path.name)
        return _picture(found, name)

    async def clip(self, request: Request) -> Response:
        """A picture that the page shows, the finished file, or the detections file.

        Args:
            request: of the visitor.
        """
        found, name = self._item(request, Clip), request.path_params["name"]
        if found is not None and name in ("file", "list"):
            path = found.out_path if name == "file" else found.list_path
            return FileResponse(path, filename=path.name) if path.is_file() else Response(status_code=404)
        return _picture(found, name)

    async def file(self, request: Request) -> Response:
        """The report, or all photos in one file.

        Args:
            request: of the visitor.
        """
        session, name = self._visitor(request), request.path_params["name"]
        if session is None or name not in ("report.json", "all.zip") or not (session.folder / name).is_file():
            return Response(status_code=404)
        return FileResponse(session.folder / name, filename=name)

    async def report(self, request: Request) -> Response:
        """The report of an evaluation: a frame can send no header, and so its address holds the visitor's key.

        Args:
            request: of whoever has the key.
        """
        found, name = self._item_by_key(request, Evaluation), request.path_params["name"]
        if found is None or name not in ("report.html", "eval.json"):
            return Response(status_code=404)
        path = found.folder / "out" / name
        return FileResponse(path) if path.is_file() else Response(status_code=404)

    async def play(self, request: Request) -> Response:
        """A clip before or after, as players ask for it: in parts, and without a header of ours.

        Args:
            request: of whoever has the key.
        """
        found, name = self._item_by_key(request, Clip), request.path_params["name"]
        path = {"before": found.path, "after": found.out_path}.get(name) if found is not None else None
        return FileResponse(path) if path is not None and path.is_file() else Response(status_code=404)

    def _visitor(self, request: Request) -> Session | None:
        return self.sessions.find(request.headers.get("x-deid-visit"))

    def _item(self, request: Request, kind: type) -> Any:
        session = self._visitor(request)
        found = session.items.get(request.path_params["number"]) if session is not None else None
        return found if isinstance(found, kind) else None

    def _item_by_key(self, request: Request, kind: type) -> Any:
        session = self.sessions.find_by_key(request.path_params["key"])
        found = session.items.get(request.path_params["number"]) if session is not None else None
        return found if isinstance(found, kind) else None

    def _new_folder(self, session: Session, name: str) -> Path:
        """A folder of its own for something new; its name is the new thing's number.

        Raises:
            VisitError: there are too many.
        """
        most = self.sessions.limits.items
        if len(session.items) >= most:
            raise VisitError(f"{name}: wanted at most {most} files, got one more; remove some, or use deid run")
        folder = session.folder / secrets.token_urlsafe(12)
        folder.mkdir()
        return folder

    async def _receive(self, request: Request, path: Path) -> None:
        """Writes what is uploaded, whole or not at all.

        Raises:
            VisitError: it is too large.
        """
        most, size = self.sessions.limits.max_bytes, 0
        told = int(request.headers.get("content-length") or 0)
        try:
            with path.open("wb") as file:
                async for block in request.stream():
                    size += len(block)
                    if max(size, told) > most:
                        raise VisitError(
                            f"{path.name}: wanted at most {most / 1e6:,.0f} MB, got {max(size, told) / 1e6:,.0f} MB; "
                            "deid web --max-mb N raises the limit, and deid run has none"
                        )
                    await asyncio.to_thread(file.write, block)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _picture(item: Any, name: str) -> Response:
    data = None if item is None else item.images.get(name)
    return Response(status_code=404) if data is None else Response(data, media_type="image/jpeg")


def _refused(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status_code=status)
