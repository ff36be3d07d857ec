"""A model that is in memory already, lent to work that would load it from its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mmpo.models.families.loading import VLM, load_vlm

_lent: ContextVar[tuple[VLM, dict[str, Any]] | None] = ContextVar("mmpo_lent_model", default=None)


@contextmanager
def lent(vlm: VLM, **options: Any) -> Iterator[None]:
    """Inside the block `loaded` with these options (those of `load_vlm` that made it) gives `vlm` itself."""
    token = _lent.set((vlm, options))
    try:
        yield
    finally:
        _lent.reset(token)


def loaded(source: str, **options: Any) -> VLM:
    """The lent model where it was made of the same source with the same options, else a newly loaded one."""
    found = _lent.get()
    if found is not None:
        vlm, made = found
        if vlm.source == source and all(made.get(name, value) == value for name, value in options.items()):
            return vlm
    return load_vlm(source, **options)
