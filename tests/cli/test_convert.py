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
    assert "2 rows read, 1 kept, 1 pairs written" in result.stdout and "convert/missing_key" in result.stdout
    result = mmpo("convert", str(file), str(tmp_path / "out"), "--from", "trl", "--overwrite", "--json")
    assert json.loads(result.stdout)["quarantined"] == {"convert/missing_key": 1}
    result = mmpo("convert", str(file), str(tmp_path / "out"))
    assert result.exit_code == 2 and "--overwrite" in result.output
    assert mmpo("convert", str(file), str(tmp_path / "x"), "--set", "nonsense").exit_code == 2
    help_text = mmpo("convert", "--help").stdout
    assert "mmpo convert RLHF-V-Dataset pairs" in help_text
