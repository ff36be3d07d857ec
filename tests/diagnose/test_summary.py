"""The table and its sums: by hand on few rows, in constant memory on a million; and the sentences."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmpo.diagnose.drift import SampledDivergence
from mmpo.diagnose.page import charts, page
from mmpo.diagnose.readings import DiagnosisNumbers, DiagnosisReading, readings
from mmpo.diagnose.samples import SampledAnswers, WrittenAnswer
from mmpo.diagnose.samples import summarize as summarize_answers
from mmpo.diagnose.separability import separability
from mmpo.diagnose.summary import SetSummary, summarize
from mmpo.diagnose.table import MeanStates, PairNumbers, read_columns, read_states, write_unit
from mmpo.errors import UserError
from tests.diagnose.material import small
from tests.trainers.material import make_pairs


def row(
    number: int, w: float, l_: float, wr: float, lr: float, n_w: int = 2, n_l: int = 4, **more: object
) -> PairNumbers:
    return PairNumbers(number, f"pair-{number}", None, bool(more.pop("held", False)), w, l_, wr, lr, n_w, n_l, **more)  # type: ignore[arg-type]


ROWS = [
    row(0, -2, -4, -3, -3),  # a 1, b -1: ranked right, D 2
    row(1, -6, -4, -4, -4),  # a -2, b 0: wrong, D -2
    row(2, -9, -9, -8, -7, held=True, ches_relative=-0.5),  # a -1, b -2: a tie is right, D 1; both fell
    PairNumbers(3, "lost", "decode/missing"),
]


def measured(rows: list[PairNumbers], tmp_path: Path, **beside: object) -> DiagnosisNumbers:
    write_unit(tmp_path / "0.parquet", rows)
    found = summarize(
        read_columns([tmp_path / "0.parquet"]), beta=0.1, betas=(0.1, 1.0), agreement=0.75, pairs=len(rows)
    )
    return DiagnosisNumbers(found, {}, None, None, True, **beside)  # type: ignore[arg-type]


def test_sums_by_hand(tmp_path: Path) -> None:
    found = measured(ROWS, tmp_path).main
    assert found.counts == {"in": 4, "diagnosed": 3, "decode/missing": 1}
    for share, hits, total in (
        (found.policy_right, 2, 3),  # -2 >= -4, -6 < -4, -9 >= -9
        (found.policy_right_by_length, 1, 3),  # -1 >= -1; -3 < -1; -4.5 < -2.25
        (found.reference_right, 2, 3),  # -3 >= -3, -4 >= -4, -8 < -7
        (found.idealized[0.1], 3, 3),  # 0 + 10.99, 0 + 10.99, -1 + 10.99
        (found.idealized[1.0], 3, 3),  # -1 + 1.0986
        (found.implicit_right, 2, 3),
        (found.trained_right, 1, 2),
        (found.held_out_right, 1, 1),
        (found.chosen_fell, 2, 3),
        (found.both_fell, 1, 3),
    ):
        assert (share.hits, share.total) == (hits, total)
    assert found.chosen_change.mean == pytest.approx(-2 / 3) and found.rejected_change.mean == pytest.approx(-1)
    assert found.chosen_change_per_token.mean == pytest.approx(-1 / 3)
    assert found.margin.mean == pytest.approx(1 / 3)
    assert found.flip_above.moments.count == 1
    # loss softplus(0.2) = 0.798139, threshold softplus(0) = 0.693147
    assert found.flip_above.mean == pytest.approx(0.104992, abs=1e-6)
    assert found.points == [(1, -1), (-2, 0), (-1, -2)]
    assert found.most_alike == [("pair-2", -0.5)]
    assert found.perception_chosen.mean is None


def test_sums_do_not_depend_on_how_rows_lie_in_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [row(k, *(-rng.exponential(20, 4)), ches_relative=float(rng.normal())) for k in range(500)]  # type: ignore[arg-type]
    write_unit(tmp_path / "all.parquet", rows)
    parts = []
    for number, start in enumerate(range(0, 500, 77)):
        parts.append(tmp_path / f"{number}.parquet")
        write_unit(parts[-1], rows[start : start + 77])
    how = {"beta": 0.1, "betas": (1.0,), "agreement": 0.75, "pairs": 500}
    one, other = (summarize(read_columns(paths), **how) for paths in ([tmp_path / "all.parquet"], parts))  # type: ignore[arg-type]
    assert one.counts == other.counts and one.points == other.points and one.most_alike == other.most_alike
    assert one.margin.mean == pytest.approx(other.margin.mean) and one.margin.median == other.margin.median
    assert one.reward_length.value == pytest.approx(other.reward_length.value)
    exact = sorted(rows, key=lambda each: -each.ches_relative)[:20]
    assert [name for name, _ in one.most_alike] == [each.id for each in exact]


def test_states_come_back(tmp_path: Path) -> None:
    states = [
        MeanStates(np.arange(3, dtype=np.float32), np.ones(3, np.float32)),
        None,
        MeanStates(*np.eye(2, 3, dtype=np.float32)),
    ]
    write_unit(tmp_path / "0.parquet", ROWS[:3], states)
    found = dict(read_states([tmp_path / "0.parquet"]))
    assert list(found) == [0, 2]
    assert found[0].chosen.tolist() == [0, 1, 2] and found[2].rejected.tolist() == [0, 1, 0]


def test_another_table_is_told(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match="not the numbers of a diagnosis"):
        list(read_columns([tmp_path / "0.parquet"]))
    (tmp_path / "1.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"1\.parquet: not a whole Parquet file"):
        list(read_columns([tmp_path / "1.parquet"]))


def grave(found: list[DiagnosisReading]) -> dict[str, str]:
    return {one.name: one.grave for one in found if one.grave != "fine"}


def test_what_went_well_is_fine(tmp_path: Path) -> None:
    rows = [row(k, -2 + 0.01 * k, -6, -3, -4, 5, 5, perception_chosen=0.4, ches_relative=-0.4) for k in range(50)]
    assert grave(readings(measured(rows, tmp_path))) == {}


def test_what_went_wrong_is_told_with_advice(tmp_path: Path) -> None:
    rows = [
        row(k, -40, -39 - 30 * (k % 3), -3, -4, 10, 20, held=k % 3 == 0, perception_chosen=0.001, ches_relative=-0.01)
        for k in range(60)
    ]  # policy far below the reference on both sides, and behind it in every third pair, which was held out
    found = readings(measured(rows, tmp_path))
    assert grave(found) == {
        "ranking accuracy, policy": "warning", "chosen fell": "warning", "relative CHES": "look",
        "drop of rejected": "look", "gradient ratio": "look", "accuracy, held out": "warning",
        "chosen longer by": "look", "perception gap, chosen": "warning",
    } | {name: kind for name, kind in grave(found).items() if name.startswith("correlation")}  # fmt: skip
    assert all(one.advice for one in found if one.grave != "fine")
    assert all(one.interval is None or one.interval[0] <= (one.value or 0) <= one.interval[1] for one in found)


def test_a_drop_on_a_few_pairs_is_no_warning(tmp_path: Path) -> None:
    def accuracy(pairs: int) -> DiagnosisReading:  # of the trained pairs 95 % are right, of those held out 75 %
        wrong = {k for k in range(pairs) if k % 20 == 1} | {pairs + k for k in range(pairs // 10) if k % 4 == 1}
        rows = [row(k, -5 if k in wrong else -2, -6, -3, -6, 5, 5, held=k >= pairs) for k in range(pairs + pairs // 10)]
        return next(one for one in readings(measured(rows, tmp_path)) if one.name == "accuracy, held out")

    few, many = accuracy(80), accuracy(2000)
    assert few.value == many.value == 0.75 and few.interval is not None and few.interval[1] > 0.9
    assert few.grave == "look" and few.sentence.endswith("20.0 points fewer, which 8 pairs leave open")
    assert many.grave == "warning" and many.sentence.endswith("20.0 points fewer")


def test_a_page_of_hostile_names(tmp_path: Path, twelve: Path) -> None:
    from dataclasses import replace

    rows = [replace(each, id="<script>|`x`\n# \x1b[31m") for each in ROWS[:3]]
    found = measured(rows, tmp_path)
    text = page(
        small(twelve, Path("m")),
        found,
        readings(found),
        {"pairs": found.main.counts},
        {},
        list(dict(charts(found, small(twelve, Path("m"))))),
    )
    assert "<script" not in text and "\x1b" not in text and "\n# \\x1b" not in text


def answer(by: str, text: str, policy: float, reference: float, tokens: int, **more: bool) -> WrittenAnswer:
    return WrittenAnswer(0, by, text, tokens, policy, reference, more.get("cut", False), more.get("known", False))


def test_own_answers_by_hand() -> None:
    found = summarize_answers(
        [
            answer("policy", "a", -1, -2, 4), answer("policy", "b", -2, -2, 6), answer("reference", "a", -1, -2, 4),
            answer("reference", "chosen", -9, -1, 2, known=True), answer("policy", "cut", -3, -3, 5, cut=True),
            answer("reference", "cut too", -3, -3, 9, cut=True),
        ],
        8,
    )  # fmt: skip
    assert found is not None and (found.answers, found.unscored) == (6, 2)
    assert found.divergence.nats == pytest.approx(1 / 3) and found.divergence.nats_per_token == pytest.approx(1 / 15)
    assert (found.tokens_after, found.tokens_before) == (5, 5)
    assert (found.truncated_after, found.truncated_before) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.growth == pytest.approx(0.620115, abs=1e-6)  # a and b, each once: see test_golden
    assert summarize_answers([], 4) is None


def test_sentences_about_answers(tmp_path: Path) -> None:
    from dataclasses import replace

    own = SampledAnswers(4, 8, 0, SampledDivergence(30.0, 1.5), 20.0, 30.0, 0.0, 0.5, 2.0, 4)
    found = readings(replace(measured(ROWS, tmp_path), answers=own))
    kinds = grave(found)
    assert kinds["length of answers"] == kinds["divergence"] == kinds["growth of unseen"] == "look"


def test_a_style_is_separable_and_chance_is_not() -> None:
    from dataclasses import replace

    rng = np.random.default_rng(0)
    pairs = dict(enumerate(make_pairs(40)))
    apart = {k: MeanStates(*(rng.normal(shift, 1, 8).astype(np.float32) for shift in (3, -3))) for k in pairs}
    chance = {k: MeanStates(*(rng.normal(0, 1, 8).astype(np.float32) for _ in range(2))) for k in pairs}
    found, other = (separability(pairs, states) for states in (apart, chance))
    assert found is not None and other is not None
    assert found.states.auroc > 0.99 and 0.2 < other.states.auroc < 0.8
    assert found.images == 20 and found.pairs == 40
    assert found.length.auroc > 0.6  # rejected answers of these pairs name one thing more
    alone = {k: replace(pair, images=pairs[0].images) for k, pair in pairs.items()}
    assert separability(alone, chance) is None


PEAK = """
import json, resource, sys
from pathlib import Path
from mmpo.diagnose.summary import summarize
from mmpo.diagnose.table import read_columns
paths = sorted(Path(sys.argv[1]).glob("*.parquet"))
found = summarize(read_columns(paths), beta=0.1, betas=(0.1, 1.0), agreement=0.75, pairs=int(sys.argv[2]))
print(json.dumps([found.counts, len(found.points), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


@pytest.mark.slow
def test_a_million_rows_in_constant_memory(tmp_path: Path) -> None:
    """Ten thousand rows and a million peak within some megabytes of one another."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mmpo.diagnose.table import NUMBERS, SCHEMA, STATES

    peaks = []
    for total in (10_000, 1_000_000):
        folder = tmp_path / str(total)
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number, start in enumerate(range(0, total, 10_000)):
            columns = {name: -rng.exponential(20, 10_000) for name in NUMBERS}
            columns |= {
                "chosen_tokens": rng.integers(1, 99, 10_000) * 1.0,
                "rejected_tokens": rng.integers(1, 99, 10_000) * 1.0,
            }
            columns |= {
                "row": np.arange(start, start + 10_000),
                "id": [f"pair-{k}" for k in range(start, start + 10_000)],
            }
            columns |= {
                "reason": ["decode/missing" if k % 100 == 0 else None for k in range(10_000)],
                "held_out": rng.random(10_000) < 0.1,
            }
            columns |= dict.fromkeys(STATES, [None] * 10_000)
            table = pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names})
            pq.write_table(table, folder / f"{number:05d}.parquet")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, folder, str(total)], capture_output=True, text=True, check=True
        )
        counts, points, peak = json.loads(done.stdout)
        assert counts == {"in": total, "diagnosed": total * 99 // 100, "decode/missing": total // 100}
        assert 0 < points <= 2100
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 60, peaks
    assert math.isfinite(peaks[0])


def test_an_empty_summary_says_nothing() -> None:
    empty = SetSummary(0.1, (0.1,), 0.75)
    assert readings(DiagnosisNumbers(empty, {}, None, None, True)) == []
