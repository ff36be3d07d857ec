"""How the members of a team (`mmpo.team`) share work out among themselves: by claims (`mmpo.locks.claimed`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmpo.files.atomic import remove_leftovers
from mmpo.locks import CLAIM, claimed
from mmpo.team import current

WAIT = 0.2
"""Seconds between two looks at what others are doing."""


def remove_claims(folder: Path) -> None:
    """Remove what dead members of a team left of their claims, once the work is there."""
    for path in folder.glob(f".*{CLAIM}"):
        path.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """What only one member of a team may do at a time in `folder`; the others wait for it. Whoever comes second looks
    first whether it is done; what a dead one left half-written is removed before. Without a team the folder is this
    process's own, and nobody is waited for."""
    team = current()
    while team is not None:
        team.heed()
        with claimed(folder / "alone") as mine:
            if mine:
                remove_leftovers(folder, deep=True)
                yield
                return
        time.sleep(WAIT)
    yield


def shared_out(
    paths: Sequence[Path], made: Callable[[int], bool], seen: Callable[[int], None]
) -> Generator[int, None, None]:
    """The numbers of the `paths` to make here, one after another; each is claimed until the next is asked for. Ends
    when all are made, here or by others. `made(number)` looks whether one is; `seen(number)` tells of each that another
    member made meanwhile. Close the generator where the work fails.

    Alone: all that aren't made, in order. In a team: those of the own share first, then what nobody is at, then what
    others leave when they die."""
    left = [number for number in range(len(paths)) if not made(number)]
    team = current()
    if team is None:
        yield from left
        return
    left.sort(key=lambda number: (number - team.share) % team.shares)  # the own share, then the next one's
    while left:
        waiting = []
        for number in left:
            team.heed()
            if not made(number):
                with claimed(paths[number]) as mine:
                    if mine and not made(number):
                        yield number
                        continue
                if not mine:
                    waiting.append(number)
                    continue
            seen(number)
        if len(waiting) == len(left):
            time.sleep(WAIT)
        left = waiting
