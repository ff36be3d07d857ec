"""How many requests are under way at once: more while the server replies, half of it when it has too many."""

from __future__ import annotations

import asyncio
from types import TracebackType

FIRST = 8


class Pace:
    """An `async with` block a request. At first `FIRST` are under way (never more than `most`); each reply allows one
    more until the server first has too many, and from then on each round of replies does. `slow_down` halves (additive
    increase, multiplicative decrease: Chiu and Jain 1989). Used from one event loop.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(FIRST, most))
        self._free = asyncio.Condition()
        self._under_way = self._begun = self._cut = 0
        self._careful = False

    async def __aenter__(self) -> None:
        async with self._free:
            await self._free.wait_for(lambda: self._under_way < int(self.limit))
            self._under_way += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._under_way -= 1
        async with self._free:
            self._free.notify_all()

    def sent(self) -> int:
        """The number of a request that is sent now."""
        self._begun += 1
        return self._begun

    def replied(self) -> None:
        """A good reply came."""
        self.limit = min(self.most, self.limit + (1 / self.limit if self._careful else 1))

    def slow_down(self, request: int) -> None:
        """This request was one too many. Those that were sent before the last halving say nothing new."""
        if request > self._cut:
            self.limit = max(1.0, self.limit / 2)
            self._cut, self._careful = self._begun, True
