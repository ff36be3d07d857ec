"""Text models on an OpenAI-compatible server: concurrent, patient with faults, strict about what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sized
from concurrent.futures import Future
from contextlib import nullcontext
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from mmpo.chat.cache import ReplyCache
from mmpo.chat.pacing import Pace
from mmpo.chat.protocol import ChatReply, ChatRequest, request_key
from mmpo.chat.redact import Redactor
from mmpo.chat.settings import ChatSettings
from mmpo.chat.transport import LARGEST_REPLY, Oversized, UnreadableReply, client
from mmpo.chat.wire import STAGE, UNOFFICIAL, Passing, ReplyReader, body_of
from mmpo.errors import Quarantined, UserError
from mmpo.outside import json_of
from mmpo.progress import task

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRIED_STATUS = (408, 409, 429)
READ_AHEAD = 8
"""Requests drawn ahead of the reply that is due, in multiples of the concurrency."""
LARGEST_LEAD = 64
"""The same, beyond those under way: they hold pictures."""

_CONTENT_REASONS = ("bad_request", "refused", "empty_reply", "not_an_image")
"""Failures that lie in one request. All others count towards giving up."""

_LASTING = ("id", "root", "parent", "owned_by", "max_model_len")
"""Fields of a server's list of models that tell models apart; times and permissions are new with each request."""


class ServerChat:
    """A `ChatModel` on a server. Reasons of its `Quarantined`s: timeout, unreachable, rate_limited, server_error,
    bad_reply (each after all tries), unauthorized, not_found, redirected, too_large, bad_request, wrong_model, refused,
    empty_reply, not_an_image. No redirect is followed, and the key is in no message, log, cache or reply.

    An event loop in a thread of its own does the asking, so it works from plain code and from notebooks.
    """

    def __init__(self, settings: ChatSettings, cache: ReplyCache) -> None:
        from openai import AsyncOpenAI

        self.settings = settings
        self._cache = cache
        if settings.base_url is None:
            raise UserError(
                f"{settings.model}: the address of its server is not in the record of an earlier build",
                hint="do this in that build itself, whose recipe has the address (`pairs` of `builder: candidates`)",
            )
        address = checked_address(settings.base_url)
        self._dropped = {name for name, value in settings.extra.items() if value is None}
        self._extra = {name: value for name, value in settings.extra.items() if value is not None}
        self._identity = f"{settings.model}@{settings.cache_name or address}"
        if settings.extra:
            fields = json.dumps(settings.extra, sort_keys=True)
            self._identity += f"+{hashlib.sha256(fields.encode()).hexdigest()[:8]}"
        key = _key(settings.api_key_env)
        self._redact = Redactor(key)
        self._reader = ReplyReader(settings.model, settings.accept_models, self._redact)
        self._identity = self._redact.message(self._identity)
        self._client = AsyncOpenAI(
            api_key=key, base_url=address, timeout=settings.timeout, max_retries=0, http_client=client(address)
        )
        self._back_off = wait_exponential_jitter(
            initial=settings.first_wait, max=settings.longest_wait, jitter=settings.first_wait
        )
        self.pace = Pace(settings.concurrency)
        self._failed_in_a_row = 0
        self._worked = False
        self._last_fault: Quarantined | None = None
        self._broken: UserError | None = None
        self.usage = {"prompt_tokens": 0, "completion_tokens": 0}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mmpo-chat", daemon=True)
        self._thread.start()

    @property
    def identity(self) -> str:
        return self._identity

    def replies(self, requests: Iterable[ChatRequest], label: str | None = None) -> Iterator[ChatReply | Quarantined]:
        """See `ChatModel.replies`. Equal requests under way are asked once. Raises UserError where the server is of no
        use (`give_up_after` failures in a row, or nothing else from the first request to the last of these); what it
        replied until then is in the cache.
        """
        source = iter(requests)
        due: deque[Future[ChatReply]] = deque()
        under_way: dict[str, Future[ChatReply]] = {}
        total = len(requests) if isinstance(requests, Sized) else None
        cached = failed = 0
        lead = min(READ_AHEAD * self.settings.concurrency, self.settings.concurrency + LARGEST_LEAD)
        try:
            with task(label, total) if label else nullcontext() as running:
                while True:
                    while len(due) < lead:
                        request = next(source, None)
                        if request is None:
                            break
                        due.append(self._begin(request, under_way))
                    if not due:
                        self._check_that_it_works()
                        return
                    result = _outcome(due[0])
                    due.popleft()
                    self._worked = self._worked or isinstance(result, ChatReply)
                    cached += isinstance(result, ChatReply) and result.cached
                    failed += isinstance(result, Quarantined)
                    if running is not None:
                        running.advance(note=f"{cached} from the cache" + (f", {failed} failed" if failed else ""))
                    yield result
        finally:
            for future in due:
                future.cancel()

    def listed(self) -> list[dict[str, Any]]:
        """The models that the server says it has; empty where it has no such list. Raises `UserError` where it can't be
        asked."""

        async def once() -> str:
            return await self._text(self._client.models.with_raw_response.list)

        try:
            text = asyncio.run_coroutine_threadsafe(self._patiently(once), self._loop).result()
        except Quarantined as failure:
            if failure.reason in ("not_found", "bad_request"):
                return []
            self._failed_in_a_row = 1
            raise self._unavailable(failure) from None
        try:
            rows = list(json_of(text, halves=True)["data"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return []
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]

    def pin(self) -> None:
        """Make what the server says of the model part of the identity: another one may come to stand behind the same
        name and address."""
        rows = [row for row in self.listed() if row["id"] == self.settings.model]
        said = [{name: row[name] for name in _LASTING if isinstance(row.get(name), str | int)} for row in rows]
        pinned = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
        self._identity += f"={pinned}"

    def close(self) -> None:
        """End what is under way and hang up."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if any(self.usage.values()):
            log.info("%s: %d prompt tokens, %d reply tokens", self._identity, *self.usage.values())

    async def _hang_up(self) -> None:
        under_way = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        for one in under_way:
            one.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()

    def _begin(self, request: ChatRequest, under_way: dict[str, Future[ChatReply]]) -> Future[ChatReply]:
        key = request_key(self._identity, request)
        known = self._cache.get(key)
        if known is not None:
            ready: Future[ChatReply] = Future()
            ready.set_result(known)
            return ready
        future = under_way.get(key)
        if future is None:
            future = under_way[key] = asyncio.run_coroutine_threadsafe(self._ask(key, request), self._loop)
            future.add_done_callback(lambda _: under_way.pop(key, None))
        return future

    async def _ask(self, key: str, request: ChatRequest) -> ChatReply:
        """One reply, after as many tries as it needs. Raises Quarantined, or UserError once the server is given up."""
        async with self.pace:
            if self._broken is not None:
                raise self._broken
            try:
                reply, usage = await self._reply(request)
                failure = None
            except Quarantined as found:
                failure = found
            if failure is not None:
                self._count(failure)
                raise failure
            self._failed_in_a_row = 0
            for name in self.usage:
                self.usage[name] += usage.get(name, 0)
            self._cache.put(key, self._identity, reply, usage)
            return reply

    async def _patiently(self, once: Callable[[], Awaitable[T]]) -> T:
        tries = AsyncRetrying(
            retry=retry_if_exception_type(Passing),
            stop=stop_after_attempt(self.settings.retries + 1),
            wait=self._wait,
            reraise=True,
        )
        try:
            return await tries(once)
        except Passing as last:
            fault = last
        raise Quarantined(STAGE, fault.reason, f"{fault.detail}; {self.settings.retries + 1} tries")

    def _wait(self, state: RetryCallState) -> float:
        """Exponential back-off with jitter, and never less than the server's Retry-After."""
        fault = state.outcome.exception() if state.outcome is not None else None
        asked = fault.wait if isinstance(fault, Passing) and fault.wait is not None else 0.0
        return max(asked, float(self._back_off(state)))

    async def _reply(self, request: ChatRequest) -> tuple[ChatReply, dict[str, int]]:
        body = body_of(request, self.settings.model)
        sent = {name: value for name, value in body.items() if name not in self._dropped}
        extra = {**{name: sent.pop(name) for name in UNOFFICIAL if name in sent}, **self._extra}
        create = self._client.chat.completions.with_raw_response.create

        async def once() -> tuple[ChatReply, dict[str, int]]:
            number = self.pace.sent()
            try:
                text = await self._text(lambda: create(**sent, extra_body=extra or None))
            except Passing as fault:
                if fault.overloaded:
                    self.pace.slow_down(number)
                raise
            self.pace.replied()
            return self._reader.read(text, request.n)

        return await self._patiently(once)

    async def _text(self, send: Callable[[], Awaitable[Any]]) -> str:
        """What the server sends back, after one try. Raises `Passing` where another may help, else `Quarantined`."""
        import openai

        try:
            raw = await asyncio.wait_for(send(), self.settings.timeout)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            failure: Exception = Passing("timeout", f"no reply within {self.settings.timeout:g} s", overloaded=True)
        except (
            openai.APIConnectionError,
            Oversized,
            UnreadableReply,
        ) as error:  # some versions wrap all, some their own
            failure = self._broken_off(error.__cause__ or error)
        except openai.APIStatusError as error:
            failure = self._refusal(error.status_code, error.message, dict(error.response.headers))
        except (UnicodeError, TypeError, ValueError) as error:  # half a surrogate pair, for one, which UTF-8 can't hold
            failure = Quarantined(STAGE, "bad_request", f"can't be sent: {self._reader.line(error)}")
        else:
            return str(raw.http_response.content.decode(errors="replace"))
        raise failure  # out here: it must not drag the request along, whose headers hold the key

    def _broken_off(self, error: BaseException) -> Exception:
        if isinstance(error, Oversized):
            return Quarantined(STAGE, "too_large", f"the reply is larger than {LARGEST_REPLY // 2**20} MB")
        if isinstance(error, UnreadableReply):
            return Passing("bad_reply", self._reader.line(error))
        return Passing("unreachable", self._reader.line(error))

    def _refusal(self, status: int, message: str, headers: dict[str, str]) -> Exception:
        """The error for an HTTP error status: one that is worth another try, or not."""
        if 300 <= status < 400:
            wanted = self._reader.line(urlsplit(headers.get("location", "")).netloc.rpartition("@")[2]) or "itself"
            return Quarantined(STAGE, "redirected", f"HTTP {status} to {wanted}; redirects are not followed")
        detail = f"HTTP {status}: {self._reader.line(message)}"
        if status not in RETRIED_STATUS and status < 500:
            reason = {401: "unauthorized", 403: "unauthorized", 404: "not_found"}.get(status, "bad_request")
            return Quarantined(STAGE, reason, detail)
        wait = retry_after(headers)
        reason = "rate_limited" if status == 429 else "server_error"
        if wait is not None and wait > self.settings.longest_wait:
            return Quarantined(STAGE, reason, f"{detail}; asks to wait {wait:.0f} s, longer than longest_wait")
        return Passing(reason, detail, wait, overloaded=status in (429, 503))

    def _count(self, failure: Quarantined) -> None:
        if failure.reason in _CONTENT_REASONS:
            self._worked = True
            return
        self._failed_in_a_row += 1
        self._last_fault = failure
        limit = self.settings.give_up_after
        if limit is not None and self._failed_in_a_row >= limit and self._broken is None:
            self._broken = self._unavailable(failure)

    def _check_that_it_works(self) -> None:
        """Raise the error for a server that has never replied, after however few requests."""
        if self.settings.give_up_after is not None and not self._worked and self._last_fault is not None:
            raise self._unavailable(self._last_fault)

    def _unavailable(self, failure: Quarantined) -> UserError:
        count = f"{self._failed_in_a_row} request{'s' if self._failed_in_a_row > 1 else ''}"
        return UserError(
            f"{self._identity}: {count} in a row failed, the last one with {failure.reason}: {failure.detail}",
            hint=_REMEDIES.get(failure.reason, "check that the server is up, then run again: replies are kept"),
        )


_REMEDIES = {
    "unauthorized": "check the key in the environment variable that api_key_env names",
    "not_found": "check base_url (it usually ends in /v1) and model",
    "redirected": "set base_url to the address that is meant, if you trust it",
    "too_large": "check that base_url is a chat server's",
    "wrong_model": "ask for the name that the server answers with, or list it in accept_models",
    "rate_limited": "lower concurrency or raise longest_wait, then run again: replies are kept",
    "timeout": "raise timeout or lower concurrency, then run again: replies are kept",
}


def retry_after(headers: dict[str, str]) -> float | None:
    """Seconds that a reply's headers ask to wait: Retry-After as seconds or as a date (RFC 9110, section 10.2.3), or
    retry-after-ms. None where they say nothing sensible.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(fields[name]) / scale
        except (KeyError, ValueError):
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        return max(0.0, parsedate_to_datetime(fields["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def _outcome(future: Future[ChatReply]) -> ChatReply | Quarantined:
    try:
        return future.result()
    except Quarantined as failure:
        return failure


def checked_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("base_url is not an http address", hint="for example http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise UserError("base_url holds a user name or password", hint="put the key into a variable, see api_key_env")
    return address.rstrip("/")


def _key(variable: str | None) -> str:
    """The API key. Its name is checked without being shown: people paste the key itself there."""
    if variable is None:
        return "none"  # some text is needed, or the client looks for a key in the environment by itself
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise UserError(
            "api_key_env is not the name of an environment variable",
            hint="write the variable's name there, and the key only into the variable",
        )
    key = os.environ.get(variable)
    if not key:
        raise UserError(f"the environment variable {variable} (api_key_env) is not set", hint=f"export {variable}=…")
    return key
