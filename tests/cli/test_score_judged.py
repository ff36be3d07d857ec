"""`mmpo eval score` with a judge: a YAML file or KEY=VALUE words, replies kept, one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chat.server import ChatServer
from tests.cli.conftest import Invoke
from tests.eval.hallusionbench.test_hallusionbench import ROWS
from tests.eval.mmhal.test_mmhal import record
from tests.eval.shr.test_shr import write_images


def test_shr(mmpo: Invoke, here: Path) -> None:
    write_images(here)
    (here / "responses.json").write_text(json.dumps({"7": "A cow. A dog.", "8": "A puppy."}))
    words = ["eval", "score", "shr", "--answers", "responses.json", "--annotations", "val_images_final.json", "--json"]
    found = json.loads(mmpo(*words).stdout)
    assert found["benchmark"] == "shr" and found["hal_sents_ratio"] == 0.333 and found["unparsed"] == 0

    def answer(prompt: str) -> str:
        return "Judgement:\n1. hallucination: a" + ("\n2. correct: b" if "2. A dog" in prompt else "")

    with ChatServer(answer) as server:
        judge = ["--judge", "backend=server", "--judge", f"model={server.model}", "--judge", f"base_url={server.url}"]
        found = json.loads(mmpo(*words, *judge).stdout)
        again = json.loads(mmpo(*words, *judge, "--parser", "strict").stdout)
        assert len(server.requests) == 2
    assert found["SHR"] == again["SHR"] == 66.7 and "scripted-1@http://127.0.0.1" in found["conventions"][0]


def test_mmhal_with_a_settings_file(mmpo: Invoke, here: Path) -> None:
    (here / "answers.json").write_text(json.dumps([record(number) for number in range(4)]))
    words = ["eval", "score", "mmhal", "--answers", "answers.json"]
    refused = mmpo(*words)
    assert refused.exit_code != 0
    with ChatServer("Fine.\nRating: 4") as server:
        (here / "judge.yaml").write_text(f"backend: server\nmodel: {server.model}\nbase_url: {server.url}\n")
        found = json.loads(mmpo(*words, "--judge", "judge.yaml", "--json").stdout)
        shown = mmpo(*words, "--judge", "judge.yaml")
    assert (found["score"], found["hallucination_rate"], found["n_unparsed"]) == (4.0, 0.0, 0)
    assert shown.exit_code == 0 and "hallucination_rate" in shown.stdout and "has 96" in shown.stdout


def test_hallusionbench(mmpo: Invoke, here: Path) -> None:
    (here / "answers.json").write_text(json.dumps([{**row, "model_prediction": "Yes."} for row in ROWS]))
    found = json.loads(mmpo("eval", "score", "hallusionbench", "--answers", "answers.json", "--json").stdout)
    assert found["aAcc"] == round(100 * 5 / 9, 4) and found["yes_no_bias"]["diff"] == round(4 / 9, 4)
    assert found["read"] == found["scored"] == 9 and found["attribution"] is None
