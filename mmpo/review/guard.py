"""Who may talk to the page: a browser on this machine that was given the token. Nobody else gets a byte of data.

- `Host` must be this address: a name that somebody points at 127.0.0.1 (DNS rebinding) is refused.
- The token of the printed address is exchanged for a cookie (HttpOnly, SameSite=Strict), and leaves the address bar.
- What changes something needs an `Origin` of this address: a form on another page is refused, cookie or not.
- The answers say that nothing may be loaded from, or sent to, anywhere else, and that no page may frame them.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 1 << 20
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SAFE = ("GET", "HEAD")


class Guard:
    """ASGI middleware around the page that is served on `port` of the loopback address."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.cookie = f"mmpo-review-{port}"  # cookies do not tell ports apart
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no web sockets here
        refused = self._refusal(scope)
        answer = refused or self._entry(scope) or self.app

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await answer(scope, receive, marked)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if headers.getlist("host") not in [[host] for host in self.hosts]:
            return PlainTextResponse("This page answers on its own address alone.", 403)
        if scope["method"] not in (*SAFE, "POST"):
            return PlainTextResponse("Not allowed.", 405)
        if not self._known(headers) and not self._token(scope):
            return PlainTextResponse("Open the address that mmpo review printed: it holds the token.", 403)
        if scope["method"] in SAFE:
            return None
        if headers.get("origin") != f"http://{headers['host']}" or not self._known(headers):
            return PlainTextResponse("Decisions come from this page alone.", 403)
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST_BODY or "transfer-encoding" in headers:
            return PlainTextResponse("Too large.", 413)
        return None

    def _entry(self, scope: Scope) -> RedirectResponse | None:
        """Who comes with the token gets the cookie and an address without it."""
        if scope["method"] != "GET" or not self._token(scope):
            return None
        answer = RedirectResponse(scope["path"] if scope["path"].startswith("/row/") else "/", 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer

    def _token(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return len(given) == 1 and self._same(given[0])

    def _known(self, headers: Headers) -> bool:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self.cookie in cookies and self._same(cookies[self.cookie].value)

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())
