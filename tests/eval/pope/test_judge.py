"""Answers that VLMEvalKit's rule can't read, decided by a judge on loopback, as there: warmer each time, five times."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.chat import open_chat
from mmpo.errors import UserError
from mmpo.eval.pope.judge import settled
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.settings import EvalSettings
from mmpo.eval.yes_no import YesNoVerdict
from tests.chat.server import ChatServer
from tests.eval.evaluating import task
from tests.eval.pope.test_score import official, questions, write

DOG = "Is there a dog in the image?"
TEXTS = ["A dog lies there.", "No.", "Hard to say.", "It shows no bus, yes."]
"""About a dog and a bus that is not there, twice; the rule reads the second one alone."""


def decide(prompt: str) -> str:
    """A judge that explains itself, and can't tell what is hard to say."""
    if "Answer: Hard to say." in prompt:
        return "Unknown"
    return "Yes." if "Answer: A dog lies there." in prompt else "The verdict is no."


def test_only_what_the_rule_cannot_read_is_asked_until_it_is_decided() -> None:
    answered = [(DOG, text) for text in (*TEXTS, TEXTS[0])]
    with ChatServer(decide) as server, open_chat(server.settings(), None) as chat:
        found = settled(chat, answered)
        assert found == {(DOG, TEXTS[0]): YesNoVerdict("yes", True), (DOG, TEXTS[3]): YesNoVerdict("no", True)}
        warmth = [(r["temperature"], "Hard to say" in r["messages"][-1]["content"]) for r in server.requests]
    assert sorted(warmth)[:3] == [(0.0, False), (0.0, False), (0.0, True)]
    assert sorted(warmth)[3:] == [(0.5, True), (1.0, True), (1.5, True), (2.0, True)]
    with ChatServer(decide) as server, open_chat(server.settings(), None) as chat:
        assert settled(chat, [(DOG, "Yes")]) == {} and not server.requests


def test_a_judge_that_fails_for_now_ends_it_and_one_that_refuses_leaves_it_unknown() -> None:
    for fault, ends in (("500", True), ("400", False)):
        with ChatServer(decide, lambda prompt, attempt, fault=fault: fault) as server:
            given = server.settings().model_copy(update={"retries": 0})
            with open_chat(given, None) as chat:
                if ends:
                    with pytest.raises(UserError, match=r"got no reply|in a row failed"):
                        settled(chat, [(DOG, TEXTS[0])])
                else:
                    assert settled(chat, [(DOG, TEXTS[0])]) == {}
                    assert len(server.requests) == 1, "asked again it would refuse again"


def test_answers_made_elsewhere(tmp_path: Path) -> None:
    asked = questions("random")
    paths = [write(tmp_path / "coco_pope_random.json", asked), write(tmp_path / "a.json", official(asked, TEXTS))]
    alone = score("pope", ScoreRequest(paths[1], questions=paths[0], parser="vlmevalkit"))
    assert (alone.metrics["accuracy"], alone.unparsed) == (0.25, 3)
    with ChatServer(decide) as server, open_chat(server.settings(), None) as chat:
        request = ScoreRequest(paths[1], questions=paths[0], parser="vlmevalkit", judge=chat)
        judged = score("pope", request)
        with pytest.raises(UserError, match="--judge goes with --parser vlmevalkit, not official"):
            score("pope", ScoreRequest(paths[1], questions=paths[0], judge=chat))
    counts = {name: judged.metrics[name] for name in ("TP", "FP", "TN", "FN")}
    assert (counts, judged.metrics["accuracy"], judged.unparsed) == ({"TP": 1, "FP": 0, "TN": 2, "FN": 1}, 0.75, 1)
    assert "scripted-1" in judged.conventions[0] and "yes_no_match@" in judged.conventions[0]


def test_in_an_evaluation_replies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the replies are kept
    file = write(tmp_path / "coco_pope_random.json", questions("random"))
    pope = {"questions": [str(file)], "image_folder": "x", "parser": "vlmevalkit", "judge": True}
    with ChatServer(decide) as server:
        given = {"model": "m", "benchmarks": ["pope"], "cache": str(tmp_path), "pope": pope}
        evaluation = EvalSettings.model_validate({**given, "judge": server.settings().model_dump()})
        benchmark = task("pope", evaluation)
        responses = {
            request: Response(text, truncated=False) for request, text in zip(benchmark.requests(), TEXTS, strict=True)
        }
        (part,) = benchmark.score(responses)
        requests = len(server.requests)
        assert benchmark.score(responses)[0].tally.values == part.tally.values
        assert len(server.requests) == requests == 7
    assert (part.tally.values["accuracy"], part.unparsed) == (0.75, 1)
    assert "decided by scripted-1 with yes_no_match@" in benchmark.conventions[0]
    with pytest.raises(UserError, match=r"eval\.judge is not set"):
        task("pope", EvalSettings.model_validate(given))
    with pytest.raises(ValueError, match="goes with `parser: vlmevalkit`"):
        EvalSettings.model_validate({**given, "pope": {"judge": True}})
