"""mmpo: multimodal preference optimization, from Python. docs/python.md shows all of it.

    model = mmpo.load("MODEL", adapter="runs/mine/train/adapter")
    model.ask("kitchen.jpg", "Is there a knife?")      # before and after, with P(yes)
    model.score(pairs)                                 # log-probs under policy and reference
    mmpo.losses.dpo(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1)
    mmpo.build(…); mmpo.train(…); mmpo.evaluate(…); mmpo.convert(…)

A mistake in what is given raises `mmpo.errors.UserError`, which says what to do. Names load when they are first used,
so `import mmpo` is quick, without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmpo import losses
    from mmpo.api.model import ask, load, score
    from mmpo.api.work import build, convert, evaluate, train
    from mmpo.data.pair import PreferencePair

__version__ = "0.1.0"

_FACE = {
    "load": "mmpo.api.model",
    "ask": "mmpo.api.model",
    "score": "mmpo.api.model",
    "losses": "mmpo.losses",
    "build": "mmpo.api.work",
    "train": "mmpo.api.work",
    "evaluate": "mmpo.api.work",
    "convert": "mmpo.api.work",
    "PreferencePair": "mmpo.data.pair",
}

__all__ = [  # noqa: RUF022 - in the order of use
    "load", "ask", "score", "losses", "build", "train", "evaluate", "convert", "PreferencePair", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'mmpo' has no attribute {name!r}")
    module = import_module(_FACE[name])
    return module if _FACE[name] == f"mmpo.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
