"""A mistake ends a script in one line."""

from __future__ import annotations

import pytest

from mmpo.errors import UserError, in_one_line


def test_a_script_ends_with_the_line_and_other_errors_stay_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken() -> None:
        raise UserError("pairs.jsonl:7: no `chosen`", hint="add the key")

    with pytest.raises(SystemExit) as ended:
        in_one_line(mistaken)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: pairs.jsonl:7: no `chosen`\n  hint: add the key\n"
    with pytest.raises(ZeroDivisionError):
        in_one_line(lambda: 1 / 0)
