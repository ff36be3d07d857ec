"""Plug-ins: Python modules from outside mmpo that register objectives, benchmarks, builders, families or formats.

A plug-in is imported because someone asked for it: a recipe lists it under `plugins:`, a command is given `--plugin`,
or an installed distribution names it as an entry point of the group `mmpo.plugins`. Importing runs its code. Entry
points are looked up when a registry (`mmpo.registry`) is first asked for something, and never with MMPO_PLUGINS=off.

Modules that were listed are noted in the environment, so that every process started from this one (loader workers, by
whatever way they start) imports them too, at the first question to a registry. No torch here.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import multiprocessing
import os
import pkgutil
import sys
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from threading import RLock
from typing import Literal, Protocol

from mmpo.errors import UserError

GROUP = "mmpo.plugins"
"""The group of entry points that name plug-ins."""
SWITCH = "MMPO_PLUGINS"
"""Set to `off`, it leaves entry points alone; what a recipe lists is imported all the same."""
HANDED_ON = "MMPO_PLUGIN_MODULES"
"""Passes the listed modules to processes started from this one; set by `load`, not by users."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """A plug-in that is loaded. `version` is that of its distribution, where it has one, with a digest of its code;
    `listed` by a recipe or on the command line, not found as an entry point."""

    module: str
    version: str
    listed: bool


class Registers(Protocol):
    """The registries that plug-ins register in (`mmpo.registry.Registry`)."""

    def names_of(self, package: str) -> set[str]:
        """The names that modules of a top-level package gave."""

    def forget(self, modules: Collection[str]) -> None:
        """Take out what these modules registered."""


registries: list[Registers] = []
_loaded: dict[str, Plugin] = {}
_lock = RLock()
_installed: Literal["not yet", "loading", "done"] = "not yet"


def loaded() -> dict[str, Plugin]:
    """The plug-ins of this process by module."""
    return dict(_loaded)


def load(module: str) -> Plugin:
    """Import a plug-in that someone listed. Raises `UserError` for what is no module's name, for a module that is not
    there (with the nearest one), and for one that fails when it is imported."""
    with _lock:
        _check_name(module)
        if module not in _loaded or not _loaded[module].listed:
            _import(module)
            _loaded[module] = Plugin(module, _version(module), True)
        handed_on = [name for name in os.environ.get(HANDED_ON, "").split(",") if name]
        os.environ[HANDED_ON] = ",".join(dict.fromkeys([*handed_on, module]))
        return _loaded[module]


def load_installed() -> None:
    """Import the entry points, once in a process, and what the process that started this one had listed. An entry
    point that is broken is left out with one warning. Raises `UserError` for a listed module that is broken."""
    global _installed
    if _installed == "done":
        return
    with _lock:
        if _installed != "not yet":  # a plug-in asks a registry while it is imported
            return
        _installed = "loading"
        try:
            for module in filter(None, os.environ.get(HANDED_ON, "").split(",")):
                load(module)
            if os.environ.get(SWITCH, "").lower() != "off":
                for entry in sorted(metadata.entry_points(group=GROUP), key=lambda one: (one.module, one.name)):
                    _load_entry(entry)
        except BaseException:
            _installed = "not yet"
            raise
        _installed = "done"


def versions_of(listed: Sequence[str], words: set[str]) -> dict[str, str]:
    """Module -> version of the plug-ins that decide a result: those `listed`, and the installed ones of which anything
    is called by one of `words`."""
    load_installed()
    return {
        name: plugin.version for name, plugin in sorted(_loaded.items()) if name in listed or _names_of(name) & words
    }


def crash(error: BaseException, trace: str = "") -> UserError | None:
    """The report of an unforeseen error that came through the code of a plug-in: the innermost line of it. None where
    it came through none. `trace` names the place of the whole trace, if it is kept."""
    packages = {module.partition(".")[0]: module for module in _loaded}
    packages.pop("mmpo", None)
    through = [
        (packages[package], f"{Path(frame.f_code.co_filename).name}:{line}")
        for frame, line in traceback.walk_tb(error.__traceback__)
        if (package := str(frame.f_globals.get("__name__")).partition(".")[0]) in packages
    ]
    if not through:
        return None
    module, where = through[-1]
    return UserError(
        f"the plug-in {module} fails: {where}: {type(error).__name__}: {_first_line(error)}",
        hint=f"{trace}{'; ' if trace else ''}the mistake is most likely the plug-in's: report it to its authors",
    )


def _names_of(module: str) -> set[str]:
    return set[str]().union(*(one.names_of(module.partition(".")[0]) for one in registries))


def _load_entry(entry: metadata.EntryPoint) -> None:
    owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
    try:
        if entry.module not in _loaded:
            _check_name(entry.module)
            _import(entry.module)
            _loaded[entry.module] = Plugin(entry.module, _version(entry.module), False)
    except UserError as error:
        if multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":  # reported once
            logger.warning(
                "the plug-in %s of %s is left out: %s (pip uninstall it, or %s=off)",
                *(entry.module, owner, error.message, SWITCH),
            )


def _check_name(module: str) -> None:
    if not isinstance(module, str):
        raise UserError(f"must be a module's name (it is {module!r})", hint="for example my_package.my_module")
    path = Path(module)
    if path.suffix == ".py" or len(path.parts) > 1:
        hint = f"the module's name is {path.stem}; PYTHONPATH={path.parent} lets Python find it"
        raise UserError(f"{module} is a path; a module's name belongs here", hint=hint)
    if not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"{module!r} is no module's name", hint="for example my_package.my_module")


def _import(module: str) -> None:
    """Import the module. Nothing of its package stays, nor of what that registered, where this fails."""
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        top = module.partition(".")[0]
        new = [name for name in set(sys.modules) - before | {module} if name.partition(".")[0] == top]
        for registry in registries:
            registry.forget(new)
        for name in new:
            sys.modules.pop(name, None)
        raise _told(module, error) from error


def _told(module: str, error: BaseException) -> UserError:
    """Why the import failed: the module is not there, one that it needs is not, or its own code raised."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (module == missing or module.startswith(f"{missing}.")):
        return UserError(f"there is no module {missing}", hint=_nearest(missing))
    if isinstance(error, UserError):
        return UserError(f"{module}: {error.message}", hint=error.hint)
    if missing:
        return UserError(f"{module} needs the module {missing}, which is not there", hint="install it beside mmpo")
    where = f"{_line_of(error)}: " if _line_of(error) else ""
    return UserError(
        f"{module} fails when it is imported: {where}{type(error).__name__}: {_first_line(error)}",
        hint=f'python -c "import {module}" shows the whole trace',
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _line_of(error: BaseException) -> str:
    """FILE:LINE where the plug-in's code raised: the innermost line outside of Python's import machinery."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if len(frames) > 1 else ""


def _nearest(missing: str) -> str:
    """The module that was meant, or how Python finds one that lies in the current folder."""
    above, _, last = missing.rpartition(".")
    path = getattr(sys.modules.get(above), "__path__", None) if above else None
    known = [one.name for one in pkgutil.iter_modules(path) if not one.name.startswith("_")]
    here = [one.name for one in pkgutil.iter_modules([os.getcwd()])]
    if not above and last in here and last not in known:
        return f"{last} lies in this folder, where Python does not look: put PYTHONPATH=. before the command"
    if close := get_close_matches(last, dict.fromkeys([*known, *([] if above else here)]), n=1, cutoff=0.6):
        return f"did you mean {f'{above}.' if above else ''}{close[0]}?"
    return "pip install its package, or put PYTHONPATH=FOLDER before the command"


def _version(module: str) -> str:
    """`0.1.0, code 0123…` of an installed plug-in, `code 0123…` of one that is just a file or a folder."""
    top = module.partition(".")[0]
    owners = _distributions().get(top, [])
    number = [metadata.version(owners[0])] if owners else []
    return ", ".join([*number, f"code {_code(module)}"])


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _code(module: str) -> str:
    """A digest of all Python files of the package that the module belongs to."""
    package = sys.modules[module.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    files = [(file.relative_to(folder).as_posix(), file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and getattr(package, "__file__", None):
        files = [(module, Path(str(package.__file__)))]
    total = hashlib.sha256()
    for name, file in files:
        total.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]
