"""mmpo convert, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Invoke
from tests.data.convert.sources import write_json

ROW = {"prompt": "What?", "chosen": "A", "rejected": "B"}


def test_the_command(mmpo: Invoke, tmp_path: Path) -> None:
    file = write_json(tmp_path / "in.json", [ROW, {}])
    result = mmpo("convert", str(file), str(tmp_path / "out"), "--to", "trl")
    assert result.exit_code == 0, result.output
    assert "read as trl (detected), written as trl" in result.stdout
    assert "2 rows read, 1 kept, 1 pairs written" in result.stdout
    assert "convert/no_rejected, as in.json:1: no rejected answer" in result.stdout
    result = mmpo("convert", str(file), str(tmp_path / "out"), "--from", "trl", "--overwrite", "--json")
    account = json.loads(result.stdout)
    assert account["quarantined"] == {"convert/no_rejected": 1}
    assert (account["rows"], account["kept"], account["pairs"]) == (2, 1, 1)
    assert (account["source_format"], account["out_format"], account["detected"]) == ("trl", "mmpo", False)
    assert account["examples"]["convert/no_rejected"].startswith("in.json:1: ")
    result = mmpo("convert", str(file), str(tmp_path / "out"))
    assert result.exit_code == 2 and "--overwrite" in result.output
    assert mmpo("convert", str(file), str(tmp_path / "x"), "--set", "nonsense").exit_code == 2
    missing = write_json(tmp_path / "seva.json", [{"question": "?", "image_id": "a", "chosen": "A", "reject": "B"}])
    result = mmpo("convert", str(missing), str(tmp_path / "none"))
    assert result.exit_code == 2 and "no row could be used" in result.output and "--images DIR" in result.output
    assert "decode/missing, as seva.json:0: a" in result.stdout
    assert json.loads((tmp_path / "none" / "rejects.jsonl").read_text())["id"] == "seva.json:0"
    help_text = mmpo("convert", "--help").stdout
    assert "mmpo convert RLHF-V-Dataset pairs" in help_text
