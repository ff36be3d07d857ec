"""Serving the review page on this machine."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmpo.data.reader import shard_paths
from mmpo.data.reviews import FILE, ReviewLog
from mmpo.data_builders.candidates.tables import is_candidates
from mmpo.errors import UserError
from mmpo.eval.graded import ANSWERS
from mmpo.locks import locked
from mmpo.packages import STARLETTE, UVICORN, require
from mmpo.review.answers import AnswerSource
from mmpo.review.claims import ClaimSource
from mmpo.review.items import ReviewSource
from mmpo.review.pairs import PairSource
from mmpo.review.session import QueueKind, ReviewSession

LOOPBACK = "127.0.0.1"


def open_source(folder: Path, images: Path | None = None) -> ReviewSource:
    """What a folder holds to review: pairs, candidates or an evaluation, or a run that has one of them."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", hint="give a folder of pairs or candidates, or of an evaluation")
    if is_candidates(folder):
        return ClaimSource(folder, images)
    if (folder / ANSWERS).is_file():
        return AnswerSource(folder, images)
    if not shard_paths(folder, "train"):
        inner = [folder / name for name in ("build/pairs", "select/pairs", "eval", "build/candidates")]
        if found := [one for one in inner if one.is_dir()]:
            raise UserError(f"{folder} is a run", hint=f"mmpo review {found[0]}")
    return PairSource(folder)


@contextmanager
def opened_session(
    folder: Path,
    *,
    reviewer: str,
    file: Path | None = None,
    images: Path | None = None,
    kind: QueueKind = "worst",
    size: int = 100,
    seed: int = 0,
) -> Iterator[ReviewSession]:
    """A session over a folder. Its file of decisions (`reviews.jsonl` in the folder, unless `file` names another) is
    locked meanwhile: two processes never write one file."""
    if not reviewer.strip() or len(reviewer) > 100:
        raise UserError(f"--reviewer {reviewer!r}: not a name")
    path = file or folder / FILE
    source = open_source(folder, images)
    with locked(path, beside=True):
        log = ReviewLog(path)
        try:
            yield ReviewSession(source, log, reviewer, kind, size, seed)
        finally:
            log.close()


def serve(session: ReviewSession, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until it is interrupted. `ready` gets the address, with a new token, once it is listening."""
    require("mmpo review", STARLETTE, UVICORN)
    import uvicorn

    from mmpo.review.app import review_app

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(f"port {port} of {LOOPBACK}: {error.strerror}", hint="--port 0 takes a free one") from None
        listening.listen()
        token, number = secrets.token_urlsafe(24), listening.getsockname()[1]
        app = review_app(session, token=token, port=number)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
            proxy_headers=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        ready(f"http://{LOOPBACK}:{number}/?token={token}")
        with suppress(KeyboardInterrupt):  # uvicorn stops, then raises it again
            uvicorn.Server(config).run(sockets=[listening])
