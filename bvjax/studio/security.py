"""The guard at the door: the token, the names under which the studio is asked, other sites, and sizes.

A page of another site must not steer the studio: its requests have another `Origin`, and a name of its own that
leads to this machine (DNS rebinding) is another `Host`.  On other interfaces than the loopback a token is wanted
for everything.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bvjax.errors import UserError

COOKIE = "bvjax_studio"
SHORTEST_TOKEN = 16
MOST_JSON = 512 << 10  # bytes of a request that is no upload
OPEN = ("/healthz",)  # what needs no token
_TOKEN = re.compile(r"[A-Za-z0-9_.~-]+")
_LONGEST_QUERY = 2000
_YEAR = 365 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str, token: str | None) -> str | None:
    """The token that a studio on `host` asks for: the one given, or where others can reach it a new one.

    Raises `UserError` for a token that can be guessed or does not fit in an address.
    """
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if len(token) < SHORTEST_TOKEN or not _TOKEN.fullmatch(token):
        raise UserError(
            f"`token` must have {SHORTEST_TOKEN} or more letters, digits, or characters of - _ . ~; without it one is "
            "made where others can reach the studio"
        )
    return token


def host_name(header: str) -> str:
    """The name in a `Host` header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def own_names(host: str) -> frozenset[str]:
    """The names under which a studio that listens on `host` may be asked."""
    names = {"localhost", "127.0.0.1", "::1", host.strip("[]").lower()}
    return frozenset(names if is_loopback(host) else names | {socket.gethostname().lower()})


class Guard:
    """Lets requests and sockets through to `app` that may be; refuses others with one sentence."""

    def __init__(self, app: ASGIApp, token: str | None, host: str, uploads: str):
        """`host`: on which the studio listens; `uploads`: the path whose bodies are not JSON."""
        self._app, self._token, self._uploads = app, token, uploads
        self._names, self._local = own_names(host), is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["type"] == "http":
            refusal = self._visiting(scope) or self._too_large(scope, headers)
        if refusal is not None:
            await self._refuse(refusal, scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        limited = receive if self._is_upload(scope) else _limited(receive)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer[name] = value
                answer.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, limited, guarded)
        except _TooLarge:
            await _said("the request is too large", 413)(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to one who must not come in."""
        host = headers.get("host", "")
        name = host_name(host) if len(headers.getlist("host")) == 1 else ""
        # Rebinding needs a name: no page can give this machine's address another owner.
        if name not in self._names and (self._local or not _is_address(name)):
            return _said("the studio is not asked under this name", 421)
        if not _same_site(headers, host):
            return _said("a page of another site cannot use the studio", 403)
        if self._token is None or scope["path"] in OPEN or self._has_token(scope, headers):
            return None
        return _said("the studio asks for a token: open the address that it printed", 401)

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer] if scheme.lower() == "bearer" else []
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
            given += [cookies[COOKIE].value] if COOKIE in cookies else []
        except CookieError:
            pass
        given += _query(scope).get("token", []) if scope["path"] == "/" else []
        assert self._token is not None
        wanted = self._token.encode()
        return any(hmac.compare_digest(text.encode("utf-8", "replace"), wanted) for text in given)

    def _visiting(self, scope: Scope) -> Response | None:
        """The page's address without the token, which becomes a cookie that scripts cannot read."""
        if scope["path"] != "/" or "token" not in _query(scope):
            return None
        answer = RedirectResponse("/", 303)
        if self._token is not None:
            answer.set_cookie(
                COOKIE, self._token, max_age=_YEAR, httponly=True, samesite="strict",
                secure=scope.get("scheme") == "https",
            )  # fmt: skip
        return answer

    def _is_upload(self, scope: Scope) -> bool:
        return scope["method"] == "POST" and scope["path"] == self._uploads

    def _too_large(self, scope: Scope, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        if self._is_upload(scope) or (length.isdecimal() and int(length[:18]) <= MOST_JSON):
            return None
        return _said(f"the request is too large: at most {MOST_JSON} bytes", 413)

    async def _refuse(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # a refusal before it is accepted is a 403
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        response.headers["Connection"] = "close"
        for name, value in HEADERS.items():
            response.headers[name] = value
        await response(scope, receive, send)


class _TooLarge(Exception):
    """A body that is larger than it said, or did not say."""


def _limited(receive: Receive) -> Receive:
    """`receive` of bodies up to `MOST_JSON` bytes."""
    taken = 0

    async def receiving() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_JSON:
            raise _TooLarge
        return message

    return receiving


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_site(headers: Headers, host: str) -> bool:
    """Whether a request comes of the studio's own page, or of no page at all."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        # Links from elsewhere may open the page: nothing is changed by it.
        return headers.get("sec-fetch-mode") == "navigate" and "origin" not in headers
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _query(scope: Scope) -> dict[str, list[str]]:
    text = scope.get("query_string", b"")
    if len(text) > _LONGEST_QUERY:
        return {}
    try:
        return parse_qs(text.decode("latin-1"), max_num_fields=20)
    except ValueError:
        return {}


def _said(sentence: str, code: int) -> Response:
    return JSONResponse({"error": sentence}, code)
