"""The way to a chat server and back: no redirect is followed, a reply has a largest size also once it is unpacked, and
of its headers only those that are read here come further."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

LARGEST_REPLY = 16 * 2**20
"""Bytes of a reply, unpacked. A long answer with the log-probs of its tokens has a few hundred thousand."""

_KEPT = ("retry-after", "retry-after-ms", "location")
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Oversized(Exception):
    """A reply, packed or unpacked, is larger than `LARGEST_REPLY`."""


class UnreadableReply(Exception):
    """A reply is packed in a way that was not requested, or its packing is broken."""


def client(address: str) -> Any:
    """For the one server at `address`, through the proxy that the environment names for it, if any."""
    from openai import DefaultAsyncHttpxClient

    # Which of httpx and its successor httpx2 openai is built on depends on its version; their transports are alike.
    base = next(kind for kind in DefaultAsyncHttpxClient.__mro__ if kind.__module__.startswith("httpx"))
    http = import_module(base.__module__.partition(".")[0])

    class Guarded(http.AsyncHTTPTransport):  # type: ignore[name-defined]
        """Reads the whole reply, bounded, and hands it on unpacked."""

        async def handle_async_request(self, request: Any) -> Any:
            request.headers["accept-encoding"] = "gzip, deflate"
            response = await super().handle_async_request(request)
            try:
                packing = response.headers.get("content-encoding", "").strip().lower()
                body = await unpacked(response.stream, packing)
            finally:
                await response.aclose()
            kept = {name: response.headers[name] for name in _KEPT if name in response.headers}
            kept["content-type"] = "application/json"
            return http.Response(response.status_code, headers=kept, content=body, request=request)

    limits = http.Limits(max_connections=1000, max_keepalive_connections=100)
    transport = Guarded(retries=0, proxy=proxy_for(address), limits=limits)
    return DefaultAsyncHttpxClient(transport=transport, follow_redirects=False, trust_env=False)


def proxy_for(address: str) -> str | None:
    """HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as for other programs."""
    parts = urlsplit(address)
    if proxy_bypass(parts.hostname or ""):
        return None
    named = getproxies()
    return named.get(parts.scheme) or named.get("all")


async def unpacked(stream: AsyncIterable[bytes], packing: str) -> bytes:
    """The bytes of a body. Neither it nor what it unpacks to is ever held beyond `LARGEST_REPLY`."""
    if packing not in ("", "identity", *_WINDOW):
        raise UnreadableReply(f"packed as {packing[:40]!r}, which was not asked for")
    unpack = zlib.decompressobj(_WINDOW[packing]) if packing in _WINDOW else None
    body, received, first = bytearray(), 0, True
    async for part in stream:
        received += len(part)
        if unpack is not None:
            try:
                part = unpack.decompress(part, LARGEST_REPLY + 1 - len(body))
            except zlib.error as error:
                raw = packing == "deflate" and first  # some servers leave out the header that the standard asks for
                if not raw:
                    raise UnreadableReply(f"its {packing} is broken ({error})") from None
                unpack = zlib.decompressobj(-zlib.MAX_WBITS)
                try:
                    part = unpack.decompress(part, LARGEST_REPLY + 1)
                except zlib.error:
                    raise UnreadableReply(f"its {packing} is broken ({error})") from None
        first = False
        body += part
        if max(len(body), received) > LARGEST_REPLY:
            raise Oversized
    if unpack is not None and received and not unpack.eof:
        raise UnreadableReply(f"its {packing} ends half-way")
    return bytes(body)
