"""What is asked of every scorer, and what a scorer may return."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.scoring import SCORERS, Scored, ScoreRequest, checked, score, scorer, scorers
from mmpo.registry import Registry


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer `judged` that needs everything."""
    monkeypatch.setattr("mmpo.eval.scoring.SCORERS", Registry("scorers", scorers()))

    @scorer("judged", parsers=("strict", "loose"), needs=("questions", "judge"), options={"runs": "how often"})
    def run(request: ScoreRequest) -> Scored:
        return Scored({"rate": 0.5}, [], read=2, scored=1, quarantined={"empty": 1})


def test_every_module_registers() -> None:
    assert {"pope", "mme"} <= scorers().keys()
    assert scorers()["pope"].parsers[0] == "official"
    assert list(scorers()) == sorted(SCORERS)


@pytest.mark.parametrize(
    ("benchmark", "request_", "message"),
    [
        ("popee", {}, r"no benchmark is called 'popee'\n  hint: choose one of .*mme, .*pope"),
        ("judged", {}, "judged needs --questions and --judge"),
        ("judged", {"parser": "lose"}, "judged has no parser 'lose'\n  hint: choose one of strict, loose"),
        ("judged", {"options": {"run": "2"}}, "judged has no option 'run'\n  hint: runs: how often"),
        ("mme", {"options": {"run": "2"}}, "mme has no option 'run'\n  hint: pairs: "),
        ("mme", {}, "nowhere does not exist"),
    ],
)
@pytest.mark.usefixtures("judged")
def test_requests_are_checked_before_a_file_is_read(benchmark: str, request_: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(benchmark, ScoreRequest(Path("nowhere"), **request_))


@pytest.mark.usefixtures("judged")
def test_a_judge_that_is_still_to_be_opened_counts(tmp_path: Path) -> None:
    file = tmp_path / "q.json"
    file.touch()
    assert checked("judged", ScoreRequest(file, questions=file), judged=True).name == "judged"


def test_json_holds_metrics_and_what_they_rest_on() -> None:
    scored = Scored({"F1": 0.5, "by": {"a": 1}}, ["how"], read=3, scored=2, unparsed=1, quarantined={"empty": 1})
    assert scored.as_json("pope") == {
        "benchmark": "pope", "F1": 0.5, "by": {"a": 1}, "conventions": ["how"], "read": 3, "scored": 2,
        "unparsed": 1, "quarantined": {"empty": 1}, "warnings": [], "intervals": {},
    }  # fmt: skip


def test_answers_do_not_vanish() -> None:
    with pytest.raises(ValueError, match="3 answers in, 2 scored"):
        Scored({}, [], read=3, scored=2)
    with pytest.raises(ValueError, match="a metric cannot be called read"):
        Scored({"read": 1}, [], read=0, scored=0)
