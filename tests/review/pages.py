"""The page as a browser that was let in sees it."""

from __future__ import annotations

import html
import re
from typing import Any

from starlette.testclient import TestClient

from mmpo.review.app import review_app
from mmpo.review.session import ReviewSession

PORT = 8123
ADDRESS = f"http://127.0.0.1:{PORT}"
TOKEN = "the-token"


def client_of(session: ReviewSession, *, entered: bool = True) -> TestClient:
    client = TestClient(review_app(session, token=TOKEN, port=PORT), base_url=ADDRESS, follow_redirects=False)
    if entered:
        assert client.get(f"/?token={TOKEN}").status_code == 303
    return client


def fields(text: str) -> dict[str, str]:
    """The hidden fields of the form on a page."""
    found = re.findall(r'<input type="hidden" name="(\w+)"[^>]*value="([^"]*)"', text)
    return {name: html.unescape(value) for name, value in found}


def decide(client: TestClient, row: int, verdict: str, **more: Any) -> Any:
    form = {**fields(client.get(f"/row/{row}").text), "verdict": verdict, **more}
    return client.post(f"/row/{row}", data=form, headers={"origin": ADDRESS})
