"""Benchmarks are tasks with settings of their own. Registered under a name, one is in recipes, in `mmpo eval score`
and in the docs:

    @benchmark("pope", settings=PopeSettings, needs="annotated images, or its questions")
    class Pope(Task[PopeSettings]):
        def requests(self) -> Sequence[Request]: ...
        def score(self, responses: Mapping[Request, Response]) -> list[Part]: ...

mmpo's own are found by their folders (`mmpo.eval.section`); a plug-in registers its own when it is imported.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from mmpo.chat.settings import ChatSettings
from mmpo.errors import UserError
from mmpo.eval.protocol import AnnotatedSet, Grade, Part, Request, Response
from mmpo.eval.section import ADDED, Section, own_benchmarks, sections
from mmpo.eval.settings import CommonSettings
from mmpo.registry import Registry

PROTOCOL = "mmpo.eval.task.Task says what a benchmark is"
NEAR_TIE = 0.25
"""Logits: what rounding in bfloat16 may move a yes or a no by."""

if TYPE_CHECKING:
    from typing_extensions import Self

S = TypeVar("S", bound=Section)
Q = TypeVar("Q")
V = TypeVar("V")


@dataclass(frozen=True)
class Context:
    """The inputs and settings of an evaluation that its benchmarks share.

    `annotated` are its annotated images, `images` is their folder; `limit` is how many images or questions are wanted;
    `judge` says which text model judges; `cache` is the folder of judges' replies and of pictures that are made.
    `others` are the settings of all benchmarks. With `look` a task is made only to look at its files: it writes nothing
    outside of `cache`.
    """

    annotated: AnnotatedSet | None = None
    images: str | None = None
    limit: int | None = None
    judge: ChatSettings | None = None
    cache: str | None = None
    others: Mapping[str, Section] = field(default_factory=dict)
    look: bool = False

    def section(self, kind: type[S]) -> S:
        """The settings of this kind, of another benchmark whose words or limits a task shares."""
        return next((one for one in self.others.values() if isinstance(one, kind)), None) or kind()


class Task(ABC, Generic[S]):
    """A benchmark that is ready to make its requests.

    `conventions` are sentences for the reader of its numbers, `warnings` what the reader should beware of. Where images
    can't be used the harness stops with an error; a task that is `partial` is scored on the responses there are
    instead (and counts what it left out). `looks` says how far a look before the work goes: to its pictures, to its
    files only, or no further than its settings, where making it takes long. `films`: its pictures may be DICOM files.

    Raises UserError for mistakes in settings and files when it is made.
    """

    partial: ClassVar[bool] = False
    looks: ClassVar[Literal["pictures", "files", "settings"]] = "pictures"
    films: ClassVar[bool] = False

    def __init__(self, settings: S, context: Context) -> None:
        self.settings, self.context = settings, context
        self.conventions: list[str] = []
        self.warnings: list[str] = []

    @abstractmethod
    def requests(self) -> Sequence[Request]:
        """All requests to the model."""

    @abstractmethod
    def score(self, responses: Mapping[Request, Response]) -> list[Part]:
        """Score the responses to all requests."""

    def grades(self, responses: Mapping[Request, Response]) -> Iterable[tuple[Request, Grade]]:
        """How each answer is taken, for `answers.jsonl`, `flips.jsonl` and reports; nothing where no single answer is
        right or wrong.
        """
        return ()

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        """Write questions and responses of each state (`before`, `after`) in the benchmark's published formats, where
        it has any.
        """


class QuestionTask(Task[S], Generic[S, Q]):
    """A benchmark that is a list of `questions`, each asked once: what most are. Answers made elsewhere are scored by
    the same `parts`.
    """

    questions: Sequence[Q]

    @classmethod
    def on(cls, questions: Sequence[Q], settings: S) -> Self:
        """The task on questions that are read already: no file is opened."""
        task = cls.__new__(cls)
        Task.__init__(task, settings, Context())
        task.questions = questions
        return task

    @abstractmethod
    def request(self, question: Q) -> Request:
        """The request that puts a question to the model."""

    @abstractmethod
    def parts(self, given: Sequence[tuple[Q, Response]]) -> list[Part]:
        """Score questions with their responses."""

    def id_of(self, question: Q) -> str:
        """The id of a question in files of answers made elsewhere."""
        if not hasattr(question, "id"):
            raise UserError(f"{type(self).__name__} doesn't say how its questions are called", hint="define id_of")
        return str(question.id)

    def requests(self) -> Sequence[Request]:
        return list(dict.fromkeys(map(self.request, self.questions)))

    def answered(self, responses: Mapping[Request, Response]) -> list[tuple[Q, Response]]:
        """The questions that have a response (all, unless an image can't be used), with it."""
        return [
            (question, responses[request])
            for question in self.questions
            if (request := self.request(question)) in responses
        ]

    def score(self, responses: Mapping[Request, Response]) -> list[Part]:
        return self.parts(self.answered(responses))

    def grade(self, question: Q, response: Response) -> Grade | None:
        """How an answer is taken, by itself; None where the benchmark doesn't say."""
        return None

    def grades(self, responses: Mapping[Request, Response]) -> Iterable[tuple[Request, Grade]]:
        for question, response in self.answered(responses):
            if (grade := self.grade(question, response)) is not None:
                yield self.request(question), grade

    def near_ties(self, given: Iterable[tuple[Q, Response]]) -> list[Request] | None:
        """The yes/no requests whose yes and no are closer than `NEAR_TIE` logits, so that another number format or
        batch may turn the answer; None where a probability is not known.
        """
        close: dict[Request, None] = {}
        for question, response in given:
            if response.p_yes is None:
                return None
            if abs(response.p_yes - 0.5) < 1 / (1 + math.exp(-NEAR_TIE)) - 0.5:
                close[self.request(question)] = None
        return list(close)


class JudgedTask(QuestionTask[S, Q], Generic[S, Q, V]):
    """A benchmark whose answers are judged, by a text model (`by_model`) or by rules; the same texts once."""

    by_model: bool = True

    @abstractmethod
    def judge(self, given: Sequence[tuple[Q, Response]]) -> V:
        """Judge the responses. Raises UserError where the judge didn't answer for a reason that may pass."""

    def judged(self, given: Sequence[tuple[Q, Response]]) -> V:
        """The verdicts about the responses."""
        texts = tuple(response.text for _, response in given)
        if texts not in self._known:
            self._known[texts] = self.judge(given)
        return self._known[texts]

    @cached_property
    def _known(self) -> dict[tuple[str, ...], V]:
        return {}

    def wants_model(self, key: str, choice: str) -> bool:
        """True if a model judges, by the setting `key`: `model` or `auto` with a judge. Raises UserError for `model`
        without one.
        """
        if choice == "model" and self.context.judge is None:
            raise UserError(f"{key} is `model`, but eval.judge is not set")
        return choice in ("model", "auto") and self.context.judge is not None


@dataclass(frozen=True)
class Benchmark:
    """A registered task: `needs` says in words what it is made of."""

    name: str
    task: type[Task[Any]]
    settings: type[Section]
    needs: str

    @property
    def about(self) -> str:
        """One line about it."""
        return self.settings.about()

    def ready(self, settings: Section, context: Context) -> Task[Any]:
        """The task, with its own settings of all those in `context`."""
        ready = self.task(settings, context)
        if not hasattr(ready, "conventions"):
            raise UserError(f"the benchmark {self.name} begins without super().__init__(settings, context)")
        return ready


def _check(name: str, one: Benchmark) -> None:
    if not (isinstance(one.task, type) and issubclass(one.task, Task)):
        raise UserError(f"the benchmark {name} is no class derived from Task", hint=PROTOCOL)
    if missing := sorted(one.task.__abstractmethods__):
        raise UserError(f"the benchmark {name} has no {' and no '.join(missing)}", hint=PROTOCOL)


BENCHMARKS: Registry[Benchmark] = Registry("benchmarks", check=_check)
"""The benchmarks registered by now; `named` also finds those that have not been imported yet."""

T = TypeVar("T", bound=type[Task[Any]])


def benchmark(name: str, *, settings: type[Section] = Section, needs: str = "") -> Callable[[T], T]:
    """Register the decorated task under `name`; its `settings` are the section `eval.NAME` of a recipe. Raises
    UserError for a name that another benchmark or key of `eval` has.
    """
    if not name.isidentifier() or name in CommonSettings.model_fields:
        why = "another key of `eval:`" if name.isidentifier() else "no word that can be a key"
        raise UserError(f"no benchmark can be called {name!r}: that is {why}", hint="rename it")

    def register(task: T) -> T:
        if name in own_benchmarks() and task.__module__ != (own := f"mmpo.eval.{name}.task"):
            import_module(own)  # it comes first, so that nobody takes its name
        BENCHMARKS.add(name, Benchmark(name, task, settings, needs), module=task.__module__)
        if name not in own_benchmarks():
            ADDED.add(name, settings, module=task.__module__)
        return task

    return register


def named(name: str) -> Benchmark:
    """The benchmark of that name. Raises UserError where there is none."""
    if name in own_benchmarks() and name not in BENCHMARKS:
        import_module(f"mmpo.eval.{name}.task")
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark is called {name!r}", hint=f"choose one of {', '.join(sections())}")
    return BENCHMARKS[name]


def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark there is, by name."""
    return {name: named(name) for name in sections()}


def table() -> str:
    """The benchmarks as a table in Markdown."""
    rows = [f"| `{one.name}` | {one.about} | {one.needs} |" for one in benchmarks().values()]
    return "\n".join(["| `eval.benchmarks` | | is made of |", "|---|---|---|", *rows])
