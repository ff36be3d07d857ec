"""Paths that others wrote: relative, and inside the folder they are joined to, links included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import ParamSpec, TypeVar

from mmpo.errors import Quarantined

P = ParamSpec("P")
R = TypeVar("R")


def is_relative_path(path: str) -> bool:
    """True for a path that stays below the folder it is joined to, by its text; links are checked when it is opened."""
    windows = PureWindowsPath(path)
    absolute = PurePosixPath(path).is_absolute() or bool(windows.drive or windows.root)
    return not (absolute or "\0" in path or "://" in path or ".." in windows.parts)


def inside(root: str | Path, path: str, *, links: bool | None = None) -> Path:
    """`root / path`, after links are followed, if that stays below `root`; else Quarantined `path_escape`.

    With `links` (by default: inside `links_allowed(True)`) a link below `root` may lead out of it, as in hub caches and
    DVC folders. The path itself never may: `..` and absolute paths stay refused.
    """
    base = Path(root).resolve()
    if not path or not is_relative_path(path):
        raise Quarantined("decode", "path_escape", path)
    try:
        full = (base / path).resolve()
    except (OSError, RuntimeError):  # a link that points to itself
        raise Quarantined("decode", "path_escape", path) from None
    except ValueError:  # half a surrogate pair, which JSON allows and file systems don't
        raise Quarantined("decode", "missing", path) from None
    if not full.is_relative_to(base) and not (_links.allowed if links is None else links):
        raise Quarantined(
            "decode", "path_escape", f"{path} is a link out of {root}; allow_links: true (--allow-links) follows it"
        )
    return full


class _Links:
    """The switch for links that lead out of a folder of images. One per process: pools of threads read images too."""

    allowed = False


_links = _Links()


@contextmanager
def links_allowed(allowed: bool) -> Iterator[None]:
    """Inside the block links below a folder of images are followed wherever they lead (a recipe's `allow_links`)."""
    before, _links.allowed = _links.allowed, allowed
    try:
        yield
    finally:
        _links.allowed = before


def follows_links(work: Callable[P, R]) -> Callable[P, R]:
    """A stage, `work(settings, …)`, that follows links where its settings say `allow_links`."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with links_allowed(getattr(args[0] if args else kwargs["settings"], "allow_links", False)):
            return work(*args, **kwargs)

    return run
