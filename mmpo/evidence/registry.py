"""Sources of evidence by name, mmpo's own and those of plug-ins. No torch here.

@evidence_source("thermometer", settings=ThermometerSettings)
class Thermometer(EvidenceSource[ThermometerSettings]): ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from mmpo.errors import UserError
from mmpo.evidence.settings import OWN_SOURCES, SOURCE_SETTINGS, SourceSettings
from mmpo.registry import Registry

if TYPE_CHECKING:
    from mmpo.evidence.source import EvidenceSource

Made = TypeVar("Made", bound="type[EvidenceSource[Any]]")


@dataclass(frozen=True)
class SourceEntry:
    """A source's settings and what makes it: `module:name`, or the class itself."""

    settings: type[SourceSettings]
    source: str | type[Any]

    def load(self) -> type[EvidenceSource[Any]]:
        if isinstance(self.source, str):
            module, _, name = self.source.partition(":")
            found: type[EvidenceSource[Any]] = getattr(import_module(module), name)
            return found
        return self.source


_MODULES = {
    "annotations": "mmpo.evidence.annotations:MarkedObjects",
    "detector": "mmpo.evidence.detector:ObjectDetector",
    "self": "mmpo.evidence.self_check:OwnAnswers",
    "judge": "mmpo.evidence.judge:PictureJudge",
}

EVIDENCE_SOURCES: Registry[SourceEntry] = Registry(
    "evidence sources", {name: SourceEntry(OWN_SOURCES[name], _MODULES[name]) for name in OWN_SOURCES}
)


def evidence_source(name: str, *, settings: type[SourceSettings]) -> Callable[[Made], Made]:
    """Make a source of evidence available as `source: NAME`: a decorator of an `EvidenceSource`. Raises `UserError` for
    a name that is taken or no word, and where the settings have no `source` that is this name and nothing else."""
    field = settings.model_fields.get("source")
    if not name.isidentifier():
        raise UserError(f"no source of evidence can be called {name!r}", hint="letters, digits and underscores")
    if field is None or get_args(field.annotation) != (name,):
        raise UserError(f"{settings.__name__} has no `source: Literal[{name!r}]`", hint=f"source {name!r} needs it")

    def add(source: Made) -> Made:
        EVIDENCE_SOURCES.add(name, SourceEntry(settings, source), module=source.__module__)
        SOURCE_SETTINGS.add(name, settings, module=source.__module__)
        return source

    return add
