"""Many pictures of made-up candidates, without a model: memory that does not grow with them, counts that add up."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.candidates_scale import SAMPLES, measured

MOST_MIB = 60
"""Ten times the pictures may take so much more at the peak: facts of each pair are kept for the guards."""


@pytest.mark.slow
def test_ten_thousand_pictures(tmp_path: Path) -> None:
    few, many = (measured(number, ["best_worst", "edited"], tmp_path / str(number)) for number in (1000, 10_000))
    assert many["tables"]["candidates"] == 10_000 * SAMPLES
    for name, found in many.items():
        print(f"{name}: {found['seconds']:.1f} s, peaks {few[name]['after']:.0f} and {found['after']:.0f} MiB")
        assert found["after"] - few[name]["after"] < MOST_MIB, name
        if name != "tables":
            assert found["pictures"] == 10_000 and 0 < found["with pairs"] <= found["pairs"]
