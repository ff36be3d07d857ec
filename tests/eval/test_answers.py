"""The answer log and the fingerprints that decide whether an old answer may be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.answers import AnswerLog, answer_key, folder_fingerprint, model_folder


def row(key: str, answer: str = "Yes") -> dict:
    return {"key": key, "answer": answer, "truncated": False}


def test_answers_survive_closing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerLog(path) as log:
        log.add(row("a"))
        log.add(row("b", "Nö\n"))
        assert "a" in log and "c" not in log
    with AnswerLog(path) as log:
        assert log["b"]["answer"] == "Nö\n"


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_half_written_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerLog(path) as log:
        log.add(row("a"))
        log.add(row("b"))
    path.write_bytes(path.read_bytes()[:-cut])
    with AnswerLog(path) as log:
        assert "a" in log and "b" not in log
        log.add(row("b", "again"))
    with AnswerLog(path) as log:
        assert log["b"]["answer"] == "again"
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("bad", ['{"key": "a"}', '{"answer": "x"}', '{"key": 1, "answer": "x"}', "nonsense"])
def test_a_foreign_line_is_an_error_that_names_it(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(f'{{"key": "a", "answer": "x"}}\n{bad}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl:2"):
        AnswerLog(path)


def test_a_killed_writer_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    script = (
        "import os, signal, sys, pathlib\n"
        "from mmpo.eval.answers import AnswerLog\n"
        "AnswerLog.FLUSH_SECONDS = 0\n"
        "log = AnswerLog(pathlib.Path(sys.argv[1]))\n"
        "for n in range(20): log.add({'key': str(n), 'answer': 'x', 'truncated': False})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert process.returncode == -9
    with AnswerLog(path) as log:
        assert all(str(n) in log for n in range(20))


def test_fingerprints_follow_contents(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    first = folder_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("not part of the model")
    os.utime(tmp_path / "config.json", (0, 0))
    assert folder_fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"Weights")  # same size: trained again into the same folder
    assert folder_fingerprint(tmp_path) != first


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model files"):
        folder_fingerprint(tmp_path)


@pytest.mark.parametrize("source", ["no/such/deep/folder", "someone/not-in-the-cache"])
def test_unknown_models(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{source}: no such model folder"):
        model_folder(source)


def test_keys_cover_everything_that_decides_an_answer() -> None:
    base = ("model", "adapter", "float32", "image", "prompt", 16)
    others = [(*base[:i], "other", *base[i + 1 :]) for i in range(5)]
    keys = [answer_key(*values) for values in [base, *others, (*base[:5], 32), ("model", None, *base[2:])]]  # type: ignore[arg-type]
    assert len(set(keys)) == len(keys)
    assert answer_key(*base) == keys[0]  # type: ignore[arg-type]
