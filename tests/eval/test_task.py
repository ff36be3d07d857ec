"""Benchmarks are found by their folders, registered by name, and refused where two have one name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mmpo.chat.settings import ChatSettings
from mmpo.errors import UserError
from mmpo.eval.chair.settings import ChairSettings
from mmpo.eval.protocol import Part, Request, Response
from mmpo.eval.section import ADDED, Section, own_benchmarks, sections
from mmpo.eval.settings import EvalSettings, eval_settings
from mmpo.eval.statistics.tally import Tally
from mmpo.eval.task import BENCHMARKS, Context, JudgedTask, Task, benchmark, benchmarks, named, table


class Length(Task[Section]):
    """How long answers are."""

    def requests(self) -> Sequence[Request]:
        return [Request(None, "Why?", 4)]

    def score(self, responses: Mapping[Request, Response]) -> list[Part]:
        raise NotImplementedError


@pytest.fixture
def alone() -> Iterator[None]:
    """What a test registers is gone after it."""
    yield
    for registry in (BENCHMARKS, ADDED):
        registry.forget([__name__])


def test_every_folder_is_registered_with_the_settings_that_the_schema_has() -> None:
    found = benchmarks()
    assert list(found) == list(own_benchmarks()) and "pope" in found
    for name, one in found.items():
        assert one.settings is sections()[name] is EvalSettings.model_fields[name].annotation
        assert one.about.endswith(".") and one.needs
        assert EvalSettings.model_fields[name].description == one.about


def test_a_benchmark_of_ones_own(alone: None) -> None:
    class Settings(Section):
        """How long answers are."""

        words: int = 3

    assert benchmark("length", settings=Settings, needs="nothing")(Length) is Length
    chosen = eval_settings().model_validate({"model": "m", "benchmarks": ["length"], "length": {"words": 5}})
    assert chosen.of("length") == Settings(words=5)
    ready = named("length").ready(chosen.of("length"), Context())
    assert [request.prompt for request in ready.requests()] == ["Why?"] and ready.write(Path("none"), {}) is None
    assert "length" not in EvalSettings.model_fields, "the schema of before is what it was"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pope", "two benchmarks are called 'pope': one of mmpo"),
        ("limit", "another key of `eval:`"),
        ("my-own", "no word that can be a key"),
    ],
)
def test_names_that_are_taken(alone: None, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        benchmark(name)(Length)


def test_twice(alone: None) -> None:
    benchmark("length")(Length)
    with pytest.raises(UserError, match="two benchmarks are called 'length': one of tests"):
        benchmark("length")(Length)


def test_unknown() -> None:
    with pytest.raises(UserError, match="no benchmark is called 'pop'") as error:
        named("pop")
    assert error.value.hint is not None and "pope" in error.value.hint


def test_settings_of_another_benchmark() -> None:
    own = ChairSettings(prompt="What?")
    assert Context(others={"chair": own}).section(ChairSettings) is own
    assert Context().section(ChairSettings) == ChairSettings()


SETTINGS = '''
from pydantic import Field
from mmpo.eval.section import ADDED, Section

class LengthSettings(Section):
    """Length of answers."""

    words: int = Field(default=3, ge=1, description="Words.")
'''
TASK = """
from mmpo.eval.length.settings import LengthSettings
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.task import Task, benchmark

@benchmark("length", settings=LengthSettings, needs="nothing")
class Length(Task[LengthSettings]):
    def requests(self): return []
    def score(self, replies): return []

@scorer("length")
def score_length(request: ScoreRequest) -> Scored:
    return Scored({}, [], 0, 0)
"""
CHECK = """
import sys
import mmpo.eval
mmpo.eval.__path__.append(sys.argv[1])
from mmpo.chat.settings import ChatSettings
from mmpo.errors import UserError
from mmpo.recipes import parse
from mmpo.recipes.schema import validate
recipe = validate(parse("name: a\\neval: {model: m, benchmarks: [length], length: {words: 2}}", "a.yaml"))
assert recipe.eval.length.words == 2
assert "torch" not in sys.modules
try:
    validate(parse("name: a\\neval:\\n  model: m\\n  length: {wods: 2}", "a.yaml"))
except UserError as error:
    print(error)
from mmpo.eval.scoring import scorers
from mmpo.eval.task import named
assert "length" in scorers() and named("length").needs == "nothing"
"""


def test_one_new_folder_is_all_it_takes(tmp_path: Path) -> None:
    """In the recipe's schema with its hints, in `mmpo eval score`, and ready to be asked; no list is touched."""
    folder = tmp_path / "length"
    folder.mkdir()
    for name, text in (("__init__", ""), ("settings", SETTINGS), ("task", TASK)):
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run([sys.executable, "-c", CHECK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "eval.length.wods" in done.stdout and "did you mean words?" in done.stdout


def test_the_table_of_the_docs_is_the_registry() -> None:
    assert table() in (Path(__file__).parents[2] / "docs/evaluators.md").read_text(encoding="utf-8")


class Say(JudgedTask[Section, str, list[int]]):
    """Each question asked as it is, each answer judged by its length."""

    judgings = 0

    def request(self, question: str) -> Request:
        return Request(None, question.lower(), 4)

    def judge(self, given: Sequence[tuple[str, Response]]) -> list[int]:
        self.judgings += 1
        return [len(response.text) for _, response in given]

    def parts(self, given: Sequence[tuple[str, Response]]) -> list[Part]:
        tally = Tally(tuple(question for question, _ in given), np.array([[n, 1] for n in self.judged(given)]), ())
        return [Part(None, tally, len(given), 0, near_ties=self.near_ties(given))]


def test_questions_are_asked_once_and_those_without_a_reply_left_out() -> None:
    say = Say.on(["Why?", "WHY?", "How?"], Section())
    assert say.requests() == [Request(None, "why?", 4), Request(None, "how?", 4)]
    (part,) = say.score({Request(None, "why?", 4): Response("so", False, p_yes=0.51)})
    assert part.tally.images == ("Why?", "WHY?") and part.tally.counts.tolist() == [[2, 1], [2, 1]]
    assert part.near_ties == [Request(None, "why?", 4)]
    (unknown,) = say.parts([("Why?", Response("so", False))])
    assert unknown.near_ties is None


def test_the_same_answers_are_judged_once() -> None:
    say, other = Say.on(["Why?"], Section()), Say.on(["Why?"], Section())
    for text in ("so", "so", "thus"):
        say.parts([("Why?", Response(text, False))])
    assert (say.judgings, other.judgings) == (2, 0)
    other.parts([("Why?", Response("so", False))])
    assert other.judgings == 1, "tasks share no verdicts"


def test_who_judges() -> None:
    judge = ChatSettings(backend="local", model="m")
    for choice, context, by_model in (
        ("auto", Context(), False),
        ("auto", Context(judge=judge), True),
        ("rules", Context(judge=judge), False),
        ("model", Context(judge=judge), True),
    ):
        assert Say(Section(), context).wants_model("eval.say.judged_by", choice) is by_model
    with pytest.raises(UserError, match=r"eval\.say\.judged_by is `model`, but eval\.judge is not set"):
        Say(Section(), Context()).wants_model("eval.say.judged_by", "model")
