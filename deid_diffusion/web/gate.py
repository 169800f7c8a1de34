"""Lets in only who may be here, only to what this page needs, and tells browsers to ask nobody else for anything."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

ENGINE = "/engine/gradio_api/queue/"
COOKIE = "deid_token"
_OPEN = ("/", f"{ENGINE}join", f"{ENGINE}data")
_OPEN_BELOW = ("/pages/", "/api/")
BODY = 2_000_000  # bytes of a request that is no upload
_CONTENT = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' blob: data:",
    "media-src": "'self' blob:", "connect-src": "'self'", "frame-src": "'self'", "form-action": "'self'",
    "base-uri": "'none'",
}  # fmt: skip
# The report of an evaluation is one file, with its style and pictures inside, and no script.
_REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_LOCKED = (
    "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    "<title>deid</title><link rel='stylesheet' href='/pages/style.css'><main class='locked'><h1>deid</h1>"
    "<p>This page wants the token that was given to <code>deid web --token</code>.</p><form action='/' method='get'>"
    "<label>Token <input name='token' type='password' autocomplete='off' required autofocus></label>"
    "<button class='primary'>Open</button></form></main></html>"
)
Scope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Args:
        host: a name or an address.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Gate:
    """An ASGI application around another one.

    Attributes:
        app: the other one.
        token: that a browser must have shown once; empty for none.
        framed_by: who may show the page in a frame, as a Content-Security-Policy says it.
        any_host: whether the page has a name of its own; else requests must name this machine, or the names of
            others could be made to point here.
    """

    app: Any
    token: str = ""
    framed_by: str = "'none'"
    any_host: bool = False

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answers, or hands on to the application.

        Args:
            scope, receive, send: as ASGI has them.
        """
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        report = scope["path"].startswith("/api/report/")
        content = "; ".join(f"{name} {value}" for name, value in _CONTENT.items())
        policy = _REPORT if report else f"{content}; frame-ancestors {self.framed_by}"
        added = {**_HEADERS, "content-security-policy": policy}

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in added]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in added.items()]
            await send(message)

        await self.app(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        """Status, text and headers of the answer to who may not come in."""
        path, host = scope["path"], headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not (self.any_host or self.token or is_loopback(name)):
            return 421, "wanted the address that deid web printed, got another name for it", {}
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "wanted a request of this page, got one of another", {}
        if path not in _OPEN and not path.startswith(_OPEN_BELOW):
            return 404, "there is nothing here", {}
        length = headers.get("content-length") or "0"
        if not length.isdecimal():
            return 400, "wanted a length in bytes, got something else", {}
        if path != "/api/upload" and int(length) > BODY:
            return 413, "wanted a small request, got a large one", {}
        return self._without_token(scope, headers) if self.token and not path.startswith("/pages/") else None

    def _without_token(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        cookies = SimpleCookie(headers.get("cookie", ""))
        shown = cookies[COOKIE].value if COOKIE in cookies else ""
        ticket = hashlib.sha256(f"deid web {self.token}".encode()).hexdigest()
        if secrets.compare_digest(shown.encode(), ticket.encode()):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and secrets.compare_digest(given.encode(), self.token.encode()):
            cookie = f"{COOKIE}={ticket}; Path=/; HttpOnly; SameSite=Strict"
            return 303, "", {"location": "/", "set-cookie": cookie}
        return 401, _LOCKED if scope["path"] == "/" else "wanted the token, got none", {}


async def _answer(send: Send, status: int, text: str, headers: dict[str, str]) -> None:
    kind = "text/html" if text.startswith("<!") else "text/plain"
    policy = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"
    headers = {**_HEADERS, "content-security-policy": policy, "content-type": f"{kind}; charset=utf-8", **headers}
    rows = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": rows})
    await send({"type": "http.response.body", "body": text.encode()})
