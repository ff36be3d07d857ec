"""Several processes that do one piece of work together, on one machine or on several that share its folder.

All members run the same code on the same folder. What one of them is doing it claims (`mmpo.locks.claimed`), and what
is there is done; so a member may come late, or die at any moment, and the others go on. A process alone is in no team,
and claims nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from mmpo.errors import UserError
from mmpo.files import owners


@dataclass(frozen=True)
class Team:
    """This process as a member. `name` is equal for all members and says what they work on; `share` of `shares`, from
    0, is where this one begins. `heed` is called now and then, and raises where the work is to end."""

    name: str
    share: int = 0
    shares: int = 1
    heed: Callable[[], None] = lambda: None


_team: ContextVar[Team | None] = ContextVar("mmpo_team", default=None)


def current() -> Team | None:
    """The team that this process works in; None where it works alone."""
    return _team.get()


@contextmanager
def working_in(team: Team | None) -> Iterator[None]:
    """Inside the block, this process is a member of `team` (None: alone)."""
    token = _team.set(team)
    try:
        yield
    finally:
        _team.reset(token)


def share_of(text: str) -> tuple[int, int]:
    """`2/8` as (1, 8): the share, from 0, and their number. Raises UserError for anything else."""
    share, slash, shares = text.partition("/")
    number, of = (int(part) if part.isascii() and part.isdecimal() and len(part) < 7 else 0 for part in (share, shares))
    if not slash or not 1 <= number <= of:
        raise UserError(f"--shard {text}: not a share", hint="1/8 is the first of eight, 8/8 the last")
    return number - 1, of


def own_log(path: Path) -> Path:
    """The file that this process appends to in the place of the log `path`: in a team each member has its own, beside
    it, for appending from several machines to one file loses lines."""
    return path if current() is None else path.with_name(f"{path.stem}.{owners.tag()}{path.suffix}")


def all_logs(path: Path) -> list[Path]:
    """The log `path` and those that members wrote beside it, as far as they are there."""
    if not path.parent.is_dir():
        return []
    logs = [one for one in path.parent.glob(f"{path.stem}.*{path.suffix}") if owners.TAGGED.fullmatch(one.stem)]
    return [one for one in (path, *sorted(logs)) if one.exists()]
