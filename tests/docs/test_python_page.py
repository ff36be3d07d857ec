"""The blocks of docs/python.md run, in order, in one folder, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmpo import plugins

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def blocks() -> list[tuple[int, str]]:
    """(line, code) of every Python block."""
    text = PAGE.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(1)) + 1, found[1]) for found in re.finditer(r"```python\n(.*?)```", text, re.S)
    ]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {"__name__": "docs_python"}
    try:
        for line, code in blocks():
            exec(compile("\n" * (line - 1) + code, str(PAGE), "exec", dont_inherit=True), known)
    finally:
        for registry in plugins.registries:
            registry.forget([known["__name__"]])
    table = known["table"]
    assert {"random", "popular", "adversarial"} <= set(table.split.dropna())
    accuracy = table[table.metric == "accuracy"]
    assert accuracy.before.between(0, 1).all() and accuracy.after.between(0, 1).all() and accuracy.p.notna().all()
    assert (accuracy.after_low <= accuracy.after).all() and (accuracy.after <= accuracy.after_high).all()
    assert known["answers"][1].p_yes > 0.5 and known["answers"][0].p_yes is None
    assert len(known["built"]) == len(known["scores"]) > 10
    assert (known["trained"].adapter / "adapter_model.safetensors").is_file()
