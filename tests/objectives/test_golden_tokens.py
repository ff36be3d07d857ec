"""Token-level losses against the shared golden values: loss, losses, gradients and logged rewards, padded or not."""

from __future__ import annotations

import pytest

from tests.objectives.golden_records import check, golden

NAMES = (
    "chip", "chip_official", "dense_dpo", "dmpo", "dpo_2d", "dpo_bmc", "full_step_dpo", "gdpo", "image_preference",
    "ld_dpo", "length_dpo", "ln_dpo", "lpoi", "mdpo", "mipo", "mrpo", "opa_dpo", "povid", "ra_dpo", "rdpo", "sampo",
    "span_dpo", "subset_dpo", "tdpo1", "tdpo2", "tpo", "vdpo",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pad", [0, 3])
def test_golden_values(name: str, pad: int) -> None:
    cases = [case for case in golden() if case["name"] == name]
    assert cases
    for case in cases:
        check(case, pad)
