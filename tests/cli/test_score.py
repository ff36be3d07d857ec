"""`mmpo eval score`: tables for people, one JSON object for programs, mistakes in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mmpo.cli.score_table import number, tables, verdict
from mmpo.eval.scoring import Scored, ScoreRequest, scorer, scorers
from mmpo.registry import Registry
from tests.chat.server import ChatServer
from tests.cli.conftest import Invoke

QUESTIONS = [
    {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {name} in the image?", "label": label}
    for n, (name, label) in enumerate([("dog", "yes"), ("cat", "no"), ("cup", "yes"), ("bus", "no")], start=1)
]


@pytest.fixture
def files(here: Path) -> tuple[Path, Path]:
    """A question and an answer file."""
    answers = [
        {"question": row["text"], "answer": text} for row, text in zip(QUESTIONS, ["Yes", "No"] * 2, strict=True)
    ]
    for name, rows in (("pope_random.json", QUESTIONS), ("answers.json", [*answers[:3], {"answer": "yes!"}])):
        (here / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return here / "pope_random.json", here / "answers.json"


def test_a_table_for_people(mmpo: Invoke, files: tuple[Path, Path]) -> None:
    result = mmpo("eval", "score", "pope", "--questions", files[0], "--answers", files[1])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["accuracy", "0.7500", "[0.2500,", "1.0000]"] in lines and ["FP", "1"] in lines
    assert "4 answers read, 4 scored, 0 of them unparsed" in result.stdout
    assert "parser official" in result.stdout
    assert lines[-3:-2] == [["next"]]


def test_one_json_object(mmpo: Invoke, files: tuple[Path, Path]) -> None:
    result = mmpo("eval", "score", "pope", "--questions", files[0], "--answers", files[1], "--json")
    data = json.loads(result.stdout)
    assert data["benchmark"] == "pope" and data["accuracy"] == 0.75 and data["read"] == 4
    assert data["intervals"]["accuracy"] == [0.25, 1.0] and "TP" not in data["intervals"]
    other = mmpo(
        "eval", "score", "pope", "--questions", files[0], "--answers", files[1], "--parser", "lmms-eval", "--json"
    )
    assert json.loads(other.stdout)["unparsed"] == 1


def test_groups_of_numbers(mmpo: Invoke, here: Path) -> None:
    for subtask in ("existence", "count"):
        rows = [("a.jpg", "Is it?", "Yes", "yes"), ("a.jpg", "Is it not?", "No", "no")]
        (here / f"{subtask}.txt").write_text("".join("\t".join(row) + "\n" for row in rows))
    result = mmpo("eval", "score", "mme", "--answers", here)
    assert result.exit_code == 0, result.output
    assert ["perception", "–"] in [line.split() for line in result.stdout.splitlines()]
    assert "! perception is incomplete" in result.stdout and "…" not in result.stdout


def test_help_lists_what_each_benchmark_takes(mmpo: Invoke) -> None:
    text = mmpo("eval", "score", "help").stdout
    assert "mmpo eval score pope --questions … --answers …" in text
    assert "--parser: official, llava, opera, vlmevalkit, lmms-eval, dash, vcd (the first is the default)" in text
    assert "--set pairs=…" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("popee", "--answers", "x"), "no benchmark is called 'popee'"),
        (("pope",), "--answers is missing"),
        (("pope", "--answers", "x"), "pope needs --questions"),
        (("pope", "--answers", "answers.json", "--questions", "none.json"), "--questions: none.json: no such file"),
        (
            ("pope", "--answers", "answers.json", "--questions", "pope_random.json", "--set", "asked"),
            "expected KEY=VALUE",
        ),
        (("pope", "--answers", "answers.json", "--questions", "answers.json"), "answers.json:1: no `label`"),
        (("pope", "--answers", "pope_random.json", "--questions", "pope_random.json"), ":1: a question, not an answer"),
        (("mme", "--answers", "pope_random.json", "--judge", "model=x"), "--judge backend: Field required"),
        (
            ("mme", "--answers", "pope_random.json", "--judge", "backend=server", "--judge", "model=x"),
            "--judge base_url",
        ),
        (("mme", "--answers", "pope_random.json", "--judge", "none.yaml"), "none.yaml does not exist"),
    ],
)
@pytest.mark.usefixtures("files")
def test_mistakes_are_one_line(mmpo: Invoke, words: tuple[str, ...], message: str) -> None:
    result = mmpo("eval", "score", *words)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output


def test_a_judge_is_opened_asked_and_remembered(mmpo: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpo.chat import ChatReply, ChatRequest

    monkeypatch.setattr("mmpo.eval.scoring.SCORERS", Registry("scorers", scorers()))

    @scorer("judged", needs=("judge",))
    def run(request: ScoreRequest) -> Scored:
        assert request.judge is not None
        replies = list(request.judge.replies([ChatRequest.ask("Right or wrong?")]))
        right = sum(isinstance(reply, ChatReply) and reply.text == "right" for reply in replies)
        return Scored({"right": right}, [], read=1, scored=1)

    (here / "a.json").write_text("{}\n")
    with ChatServer(answer="right") as server:
        settings = server.settings()
        (here / "judge.yaml").write_text(yaml.safe_dump({"backend": "server", "model": "other", "base_url": "x"}))
        words = (
            "--judge",
            "judge.yaml",
            "--judge",
            f"model={settings.model}",
            "--judge",
            f"base_url={settings.base_url}",
        )
        for _ in range(2):
            result = mmpo("eval", "score", "judged", "--answers", "a.json", *words, "--json")
            assert result.exit_code == 0, result.output
            assert json.loads(result.stdout)["right"] == 1
        assert sum(server.answered.values()) == 1  # the second run found the reply in judge-replies.jsonl
    assert (here / "judge-replies.jsonl").exists()


def test_numbers_as_people_read_them() -> None:
    shown = [number(value) for value in (None, 3, 1234, 0.5, 1.0, 963.6114, "x", True)]
    assert shown == ["–", "3", "1,234", "0.5000", "1.0000", "963.61", "x", "True"]


@pytest.mark.parametrize("width", [24, 50, 80, 120])
def test_no_number_of_a_result_is_cut(width: int) -> None:
    splits = {
        name: {
            key: 0.5 + n / 7 for n, key in enumerate(("accuracy", "precision", "recall", "F1", "yes_ratio", "TP", "FP"))
        }
        for name in ("random", "popular", "a_split_of_a_very_long_name")
    }
    metrics = {"mean_F1": 1234.5678, "a_metric_of_a_name_that_is_far_too_long": 87.654, **splits, "by": {"x": splits}}
    intervals = {name: {key: [0.111, 0.999] for key in row} for name, row in splits.items()}
    out = io.StringIO()
    for table in tables(metrics, "POPE", intervals, width):
        Console(file=out, width=width, color_system=None).print(table)
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for value in (1234.5678, 87.654, *splits["random"].values()):
        assert number(value) in text


def test_a_result_begins_with_three_plain_lines() -> None:
    scored = Scored({"n": 3, "F1": 0.5, "by": {"x": 2.0}}, ["how"], read=3, scored=2, unparsed=1,
                    quarantined={"late": 1}, warnings=["odd"])  # fmt: skip
    assert verdict(scored, "pope") == [
        "pope: F1 0.5000, by x 2.00",
        "3 answers read, 2 scored, 1 of them unparsed; left out: 1 late",
        "Take care: 1 warning below",
    ]
