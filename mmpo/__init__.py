"""mmpo: multimodal preference optimization. Public names load lazily, so `import mmpo` is quick, without torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "UserError": "mmpo.errors",
    "PreferencePair": "mmpo.data.pair",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mmpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
