"""The review page: addresses, and what each answers.

GET  /                  the first undecided item        GET  /picture/ROW/NUMBER    a picture of an item
GET  /row/ROW           an item                         GET  /static/NAME           our style and scripts
POST /row/ROW           a decision; the next item
"""

from __future__ import annotations

import io
import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image
from mmpo.report import pages
from mmpo.review.guard import Guard
from mmpo.review.session import DecidedElsewhere, ReviewSession
from mmpo.storage import storage_error

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = {
    "review.css": "text/css",
    "review.js": "text/javascript",
    "htmx-2.0.4.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
LARGEST_SIDE = 1200
"""Pixels of the longer side of a picture on the page."""


@cache
def templates() -> Environment:
    """The templates of this page beside those of reports, whose cards it draws."""
    return pages.environment().overlay(
        loader=ChoiceLoader([FileSystemLoader(TEMPLATES), FileSystemLoader(pages.TEMPLATES)])
    )


def review_app(session: ReviewSession, *, token: str, port: int) -> Guard:
    """The page over one session, behind its guard."""
    page = _Page(session)
    routes = [
        Route("/", page.start),
        Route("/row/{row:int}", page.show, methods=["GET"]),
        Route("/row/{row:int}", page.decide, methods=["POST"]),
        Route("/picture/{row:int}/{number:int}", page.picture),
        Route("/static/{name}", _asset),
    ]
    app = Starlette(routes=routes, exception_handlers={IndexError: _missing, Exception: _failed})
    return Guard(app, token=token, port=port)


class _Page:
    def __init__(self, session: ReviewSession) -> None:
        self.session = session
        self._thumbnail = lru_cache(maxsize=64)(self._drawn)

    async def start(self, request: Request) -> Response:
        row = self.session.next()
        return RedirectResponse(f"/row/{self.session.order[0] if row is None else row}", 303)

    def show(self, request: Request) -> Response:
        return self._page(request, request.path_params["row"])

    async def decide(self, request: Request) -> Response:
        body = (await request.body()).decode("utf-8", errors="replace")
        form = dict(parse_qsl(body, keep_blank_values=True))
        return await run_in_threadpool(self._decide, request, form)

    def _decide(self, request: Request, form: dict[str, str]) -> Response:
        row = request.path_params["row"]
        try:
            self.session.decide(row, form)
        except DecidedElsewhere as error:
            return self._page(request, row, 409, error.message, form)
        except UserError as error:
            return self._page(request, row, 422, error.message, form)
        except OSError as error:
            told = storage_error(error)
            message = told.message if told else f"{error.strerror}: {error.filename}"
            log.error("a decision was not kept: %s", message)
            return self._page(request, row, 507, f"Not kept: {message}", form)
        following = self.session.next(row)
        if following is None:
            following = row
        if "hx-request" not in request.headers:
            return RedirectResponse(f"/row/{following}", 303)
        answer = self._page(request, following)
        answer.headers["HX-Push-Url"] = f"/row/{following}"
        return answer

    def picture(self, request: Request) -> Response:
        try:
            data = self._thumbnail(request.path_params["row"], request.path_params["number"])
        except (UserError, Quarantined, OSError):
            return PlainTextResponse("No such picture.", 404)
        return Response(data, media_type="image/jpeg")

    def _drawn(self, row: int, number: int) -> bytes:
        """A picture of an item as a JPEG that was encoded here: no byte of the file itself reaches the browser."""
        image = load_image(self.session.item(row).pictures[number], root=self.session.source.root)
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=88)
        return out.getvalue()

    def _page(
        self, request: Request, row: int, status: int = 200, message: str = "", form: dict[str, str] | None = None
    ) -> HTMLResponse:
        session = self.session
        shown: dict[str, Any] = {"item": None, "decision": None, "version": 0}
        try:
            item = session.item(row)
            shown = {
                "item": item,
                "decision": session.decision(item),
                "version": session.log.version(item.id, session.reviewer),
            }
        except UserError as error:
            message = message or f"This {session.source.noun} cannot be shown: {error.message}"
        part = "item.html" if "hx-request" in request.headers else "page.html"
        html = templates().get_template(part).render(
            **shown,
            form=form or {},
            message=message,
            row=row,
            place=session.place(row),
            previous=session.beside(row, -1),
            following=session.beside(row, 1),
            progress=session.progress(),
            session=session,
        )  # fmt: skip
        return HTMLResponse(html, status)


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        return PlainTextResponse("No such file.", 404)
    return Response((TEMPLATES / name).read_bytes(), media_type=ASSETS[name], headers={"Cache-Control": "no-cache"})


async def _missing(request: Request, error: Exception) -> Response:
    return PlainTextResponse("There is no such item.", 404)


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse("This did not work; the terminal says why.", 500)
