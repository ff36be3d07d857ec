"""mmpo radiology detect | edit | findings | films."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmpo.cli.app import load_commands
from mmpo.eval.statistics.scorecard import Scorecard
from tests.chat.server import ChatServer
from tests.data_builders.radiology.test_radiology import answer
from tests.radiology.test_films_and_reports import RAMP, made


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "s.jsonl"
    rows = [{"text": "Heart size is unchanged.", "label": True, "n": 1}, {"text": "Lungs are clear."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mmpo(*words: Any) -> Any:
    return CliRunner().invoke(load_commands(), ["radiology", *map(str, words)])


def test_detect(sentences: Path) -> None:
    result = mmpo("detect", sentences, "--json")
    first, second = (json.loads(line) for line in result.output.splitlines())
    assert (first["label"], first["given_label"], first["n"], first["spans"]) == (True, True, 1, [[14, 23]])
    assert (second["label"], second["score"], second["cues"]) == (False, 0.0, [])
    assert "1 of 2" in mmpo("detect", sentences).output


def test_detect_by_a_judge(sentences: Path, tmp_path: Path) -> None:
    with ChatServer(answer=answer) as server:
        judge = tmp_path / "judge.yaml"
        judge.write_text(json.dumps(server.settings().model_dump()))
        result = mmpo("detect", sentences, "--json", "--judge", judge)
    assert [json.loads(line)["label"] for line in result.output.splitlines()] == [True, False]
    sentences.write_text('{"text": "x", "credentialed": true}\n')
    judge.write_text("{backend: server, model: m, base_url: 'https://api.example.org/v1'}")
    assert "credentialed" in mmpo("detect", sentences, "--judge", judge).output


def test_edit_and_findings(sentences: Path) -> None:
    sentences.write_text('{"text": "There is again a small effusion. No change."}\n')
    assert mmpo("edit", sentences).output == "There is a small effusion.\n"
    row = json.loads(mmpo("edit", sentences, "--json").output)
    assert [line["label"] for line in row["lines"]] == ["partial", "all"]
    assert json.loads(mmpo("findings", sentences, "--json").output)["findings"] == {"Pleural Effusion": "positive"}


@pytest.mark.parametrize(("text", "words"), [("{", "s.jsonl:1"), ('{"txt": 1}', "no string `text`")])
def test_bad_rows(sentences: Path, text: str, words: str) -> None:
    sentences.write_text(text)
    result = mmpo("detect", sentences)
    assert result.exit_code == 2 and words in " ".join(result.output.split())


def test_films(tmp_path: Path) -> None:
    films = tmp_path / "in"
    films.mkdir()
    (films / "a.dcm").write_bytes(made(RAMP))
    (films / "b.dcm").write_bytes(b"junk")
    result = mmpo("films", films, tmp_path / "out")
    assert result.exit_code == 0 and (tmp_path / "out" / "a.png").exists()
    (reject,) = (json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert reject["id"] == "b.dcm" and reject["reason"] == "not_dicom"


@pytest.mark.slow
def test_the_demo_in_short(tmp_path: Path) -> None:
    """`mmpo demo radiology --quick --standard` with the shipped model: ten steps already suppress some."""
    result = CliRunner().invoke(
        load_commands(), ["demo", "radiology", "--quick", "--standard", "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 0, result.output
    assert "gamma: 1.0" in (tmp_path / "run" / "recipe.yaml").read_text()
    card = Scorecard.read(tmp_path / "run" / "eval" / "scorecard.json")
    row = card.row("radiology", "prior_lines_per_report")
    assert row.before is not None and row.after.value < row.before.value
