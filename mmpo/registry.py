"""Registries: things by name (objectives, benchmarks, builders, families, formats), mmpo's own and those of plug-ins.

A registry is a mapping that can only grow. Two things of one name are refused with both owners named. Asking it for
anything imports the installed plug-ins first (`mmpo.plugins.load_installed`); filling it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Generic, TypeVar

from mmpo import plugins
from mmpo.errors import UserError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name, in the order in which they came. `kind` is what messages call them; `check` raises
    `UserError` for a name and a thing that can't be added."""

    def __init__(
        self, kind: str, own: Mapping[str, T] | None = None, *, check: Callable[[str, T], None] | None = None
    ) -> None:
        self.kind, self._check = kind, check
        self._things: dict[str, T] = dict(own or {})
        self._owners: dict[str, str] = dict.fromkeys(self._things, "mmpo")
        plugins.registries.append(self)

    def add(self, name: str, thing: T, *, module: str | None = None) -> None:
        """Make `thing` available as `name`; `module` is where it is defined, the caller's own where left out. Raises
        `UserError` for a name that is taken. In `__main__` (a notebook, a script) a definition may be run again."""
        owner = module or str(sys._getframe(1).f_globals["__name__"])
        before = self._owners.get(name)
        if before is not None and not before == owner == "__main__":
            raise UserError(
                f"two {self.kind} are called {name!r}: one of {before}, one of {owner}", hint="rename the second"
            )
        if self._check is not None:
            self._check(name, thing)
        self._things[name], self._owners[name] = thing, owner

    def names_of(self, package: str) -> set[str]:
        return {name for name, owner in self._owners.items() if owner.partition(".")[0] == package}

    def forget(self, modules: Collection[str]) -> None:
        for name in [name for name, owner in self._owners.items() if owner in modules]:
            del self._things[name], self._owners[name]

    def __getitem__(self, name: str) -> T:
        plugins.load_installed()
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        plugins.load_installed()
        return iter(list(self._things))

    def __len__(self) -> int:
        plugins.load_installed()
        return len(self._things)

    def __contains__(self, name: object) -> bool:
        plugins.load_installed()
        return name in self._things
