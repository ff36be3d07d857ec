"""Answers made elsewhere, scored: what `mmpo eval score BENCHMARK` calls.

A benchmark's module holds pure functions that read and score; a thin scorer at its end joins them:

    @scorer("pope", parsers=tuple(PARSERS), needs=("questions",))
    def score_pope(request: ScoreRequest) -> Scored: ...

Scorers are found in the `score.py` or `task.py` of a benchmark's folder; a plug-in registers its own, or has the one of
`mmpo.eval.by_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.section import own_benchmarks
from mmpo.packages import Package, require
from mmpo.registry import Registry

if TYPE_CHECKING:
    from mmpo.chat import ChatModel

ScoringInput = Literal["questions", "annotations", "judge"]
YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class ScoreRequest:
    """One scoring job: a benchmark's question and answer files as published (a file or a folder, as it takes them).

    `parser` names the rule that reads an answer (None: the benchmark's first), `judge` is a text model that is open,
    `options` are the benchmark's own, checked against the names it declares.
    """

    answers: Path
    questions: Path | None = None
    annotations: Path | None = None
    parser: str | None = None
    judge: ChatModel | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str) -> bool | None:
        """The option `name`, which is yes or no; None where it is left out. Raises UserError for another word."""
        value = self.options.get(name)
        if value is not None and value.lower() not in YES:
            raise UserError(f"{name} must be yes or no, got {value!r}")
        return None if value is None else YES[value.lower()]


@dataclass(frozen=True)
class Scored:
    """The numbers and what they rest on.

    `metrics` has the names of the benchmark's specification; a value may be a dict of splits or categories, None is an
    undefined number. Of `read` answers `scored` entered the numbers; `unparsed` of these hold nothing that the rule
    looks for and got its default. `quarantined` counts, by reason, answers that were left out, so that
    `read == scored + sum(quarantined.values())`. `intervals` has [low, high] of 95% under the names of `metrics`, where
    there are any. `readable_of` is what `unparsed` is counted of where that is not `scored` (sentences, say).
    """

    metrics: dict[str, Any]
    conventions: list[str]
    read: int
    scored: int
    unparsed: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    intervals: dict[str, Any] = field(default_factory=dict)
    readable_of: int | None = None

    def __post_init__(self) -> None:
        taken = {"benchmark", *(item.name for item in fields(self))} & self.metrics.keys()
        if taken:
            raise ValueError(f"a metric cannot be called {', '.join(sorted(taken))}")
        if self.read != self.scored + sum(self.quarantined.values()):
            raise ValueError(f"{self.read} answers in, {self.scored} scored, {self.quarantined} left out")

    def as_json(self, benchmark: str) -> dict[str, Any]:
        """One JSON object: every metric under its name, and beside them what they rest on."""
        data = asdict(self)
        del data["readable_of"]
        return {"benchmark": benchmark, **data.pop("metrics"), **data}


@dataclass(frozen=True)
class Scorer:
    """A registered scorer. `parsers[0]` is the default, `needs` what must be given beside the answers, `options` its
    `--set` keys with a line about each, `packages` what a given file or option asks for.
    """

    name: str
    function: Callable[[ScoreRequest], Scored]
    parsers: tuple[str, ...]
    needs: tuple[ScoringInput, ...]
    options: Mapping[str, str]
    packages: Mapping[str, tuple[Package, ...]] = field(default_factory=dict)

    def run(self, request: ScoreRequest) -> Scored:
        """The numbers. Raises UserError where nothing at all could be read: a parser's default for every answer is no
        result.
        """
        scored = self.function(request)
        of = scored.scored if scored.readable_of is None else scored.readable_of
        if of and scored.unparsed >= of:
            rule = request.parser or next(iter(self.parsers), "")
            others = [parser for parser in self.parsers if parser != rule]
            hint = f"another --parser ({', '.join(others)})? " if others else ""
            raise UserError(
                f"{request.answers}: none of the {of:,} answers holds what {self.name}{f' ({rule})' if rule else ''} "
                "looks for, so there is no number to print",
                hint=hint + "look at a few answers: is it the right file?",
            )
        if not of and scored.read:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in scored.quarantined.items())
            raise UserError(
                f"{request.answers}: none of the {scored.read:,} answers is scored ({reasons or 'all empty'})"
            )
        return scored


def answers_by_id(
    path: Path, known: Collection[str], ids: tuple[str, ...], texts: tuple[str, ...]
) -> tuple[dict[str, str], int]:
    """The answers of rows with an id and a text (under the first of these keys that is there), by id, and how many
    belong to no known question. Raises UserError naming the line of a mistake, and where no answer belongs to any.
    """
    answers: dict[str, str] = {}
    unknown = 0
    for where, row in read_records(path):
        name = next((str(row[key]) for key in ids if key in row), None)
        if name is None:
            raise UserError(f"{where}: no `{ids[0]}`; the record has {', '.join(row)}")
        if name in answers:
            raise UserError(f"{where}: a second answer to {name}")
        if name in known:
            answers[name] = text_of(row, texts, where)
        else:
            unknown += 1
    if not answers:
        raise UserError(f"{path}: no answer belongs to a question")
    return answers, unknown


def of_answers(
    metrics: Mapping[str, Any], conventions: list[str], given: int, asked: int, unknown: int, unread: int
) -> Scored:
    """The result of answers that were found by their ids: `given` of the `asked` questions have one."""
    return Scored(
        metrics=dict(metrics),
        conventions=conventions,
        read=given + unknown,
        scored=given,
        unparsed=unread,
        quarantined={"the question is not in the file": unknown} if unknown else {},
        warnings=[f"{asked - given} of {asked} questions have no answer"] if given < asked else [],
    )


SCORERS: Registry[Scorer] = Registry("scorers")


def scorer(
    name: str,
    *,
    parsers: tuple[str, ...] = (),
    needs: tuple[ScoringInput, ...] = (),
    options: Mapping[str, str] | None = None,
    packages: Mapping[str, tuple[Package, ...]] | None = None,
) -> Callable[[Callable[[ScoreRequest], Scored]], Callable[[ScoreRequest], Scored]]:
    """Register the decorated function as the scorer of the benchmark `name`. Raises `UserError` for a name that is
    taken."""

    def register(function: Callable[[ScoreRequest], Scored]) -> Callable[[ScoreRequest], Scored]:
        if not function.__module__.startswith("mmpo."):  # mmpo's own come first, so that no plug-in takes their names
            _import_own()
        made = Scorer(name, function, parsers, needs, dict(options or {}), dict(packages or {}))
        SCORERS.add(name, made, module=function.__module__)
        return function

    return register


def scorers() -> dict[str, Scorer]:
    """Every scorer there is, by benchmark."""
    _import_own()
    made: dict[str, Scorer] = import_module("mmpo.eval.by_id").scorers_by_id()  # it needs this file
    return dict(sorted({**made, **SCORERS}.items()))


def _import_own() -> None:
    for name in own_benchmarks():
        for module in (f"mmpo.eval.{name}.task", f"mmpo.eval.{name}.score"):
            if find_spec(module) is not None:
                import_module(module)


def score(benchmark: str, request: ScoreRequest) -> Scored:
    """Score answers made elsewhere. Raises UserError for an unknown benchmark, parser or option, for what is missing,
    and for mistakes in the files (with file and line).
    """
    found = checked(benchmark, request)
    for path in (request.answers, request.questions, request.annotations):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist")
    return found.run(request)


def checked(benchmark: str, request: ScoreRequest, *, judged: bool = False) -> Scorer:
    """The scorer of `benchmark`, after a look at everything in the request that needs no file to be read. `judged`: a
    judge will be there, though it is not open yet.
    """
    known = scorers()
    if benchmark not in known:
        raise UserError(f"no benchmark is called {benchmark!r}", hint=f"choose one of {', '.join(known)}")
    found = known[benchmark]
    if request.parser is not None and request.parser not in found.parsers:
        rules = f"choose one of {', '.join(found.parsers)}" if found.parsers else "leave it out"
        raise UserError(f"{benchmark} has no parser {request.parser!r}", hint=rules)
    unknown = next((key for key in request.options if key not in found.options), None)
    if unknown is not None:
        keys = "; ".join(f"{key}: {text}" for key, text in found.options.items()) or "it has none"
        raise UserError(f"{benchmark} has no option {unknown!r}", hint=keys)
    given = {
        "questions": request.questions is not None,
        "annotations": request.annotations is not None,
        "judge": request.judge is not None or judged,
    }
    missing = [f"--{need}" for need in found.needs if not given[need]]
    if missing:
        raise UserError(f"{benchmark} needs {' and '.join(missing)}", hint="docs/evaluators.md says what each holds")
    for key, packages in found.packages.items():
        if given.get(key) or key in request.options:
            require(f"{benchmark} with {key if key in request.options else f'--{key}'}", *packages)
    return found
