"""The scorecard: rows from tallies, Markdown, terminal, file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.mme import metrics as mme
from mmpo.eval.pope import metrics as pope
from mmpo.eval.statistics.compare import Bootstrap, adjusted, compare, compare_categories
from mmpo.eval.statistics.rows import MetricCounts, number
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.eval.statistics.tally import Tally, share
from mmpo.eval.statistics.verdict import headline_rows
from mmpo.statistics import wilson
from mmpo.text.vocabulary import ObjectVocabulary

BOOT = Bootstrap(samples=500, seed=0)
WORDS = ObjectVocabulary.from_names(["dog", "cat"])
TRUTH = {str(i): ("dog",) for i in range(40)}


def captions(hallucinated: int) -> chair.ChairResult:
    return chair.score({i: "A dog and a cat." if int(i) < hallucinated else "A dog." for i in TRUTH}, TRUTH, WORDS)


def pope_result(wrong: int) -> pope.PopeResult:
    questions = [pope.PopeQuestion(i, f"{i % 20}.jpg", f"Is there {i}?", "yes" if i % 2 else "no") for i in range(40)]
    other = {"yes": "No", "no": "Yes"}
    return pope.score(questions, [other[q.label] if i < wrong else q.label for i, q in enumerate(questions)])


def card(before: int | None = 20, after: int = 4) -> Scorecard:
    first = None if before is None else captions(before).tally
    return Scorecard(
        model="llava",
        adapter=None if before is None else "run/adapter",
        rows=compare("chair", None, first, captions(after).tally, BOOT),
        counts=[
            MetricCounts(
                benchmark="chair", split=None, state="after", images=40, questions=40, unparsed=None, truncated=1
            )
        ],
        conventions=["how"],
        warnings=["careful"],
        quarantined={"truncated": 2},
    )


def test_rows_with_before_and_after() -> None:
    row = card().row("chair", "CHAIRi")
    assert row.before is not None and row.change is not None
    assert row.before.value == pytest.approx(20 / 60) and row.after.value == pytest.approx(4 / 44)
    assert row.change.value == pytest.approx(4 / 44 - 20 / 60)
    assert row.change.low < row.change.value < row.change.high < 0
    assert row.change.test == "bootstrap" and row.change.p == pytest.approx(2 / 501)
    assert row.after.method == "bootstrap" and row.after.low < row.after.value < row.after.high


def test_shares_of_captions_use_wilson_and_mcnemar() -> None:
    row = card().row("chair", "CHAIRs")
    expected = wilson(4, 40)
    assert (row.after.method, row.after.low, row.after.high) == ("wilson", expected.low, expected.high)
    assert row.change is not None
    assert (row.change.test, row.change.fixed, row.change.broken) == ("mcnemar", 16, 0)
    assert row.change.p == pytest.approx(2 / 2**16)


def test_pope_accuracy_uses_mcnemar() -> None:
    rows = {row.metric: row for row in compare("pope", "random", pope_result(10).tally, pope_result(2).tally, BOOT)}
    change = rows["accuracy"].change
    assert change is not None and (change.test, change.fixed, change.broken) == ("mcnemar", 8, 0)
    assert rows["F1"].change is not None and rows["F1"].change.test == "bootstrap"


def test_pairs_follow_the_question_not_the_order() -> None:
    before, after = captions(20), captions(20)
    reordered = chair.score({row.image: row.caption for row in before.rows[::-1]}, TRUTH, WORDS)
    for row in compare("chair", None, reordered.tally, after.tally, BOOT):
        assert row.change is not None and (row.change.value, row.change.p) == (0, 1)


def test_other_questions_are_refused() -> None:
    fewer = chair.score({"1": "A dog."}, TRUTH, WORDS)
    with pytest.raises(UserError, match="chair: before and after were not asked the same"):
        compare("chair", None, fewer.tally, captions(1).tally, BOOT)


def test_missing_rows_are_key_errors() -> None:
    with pytest.raises(KeyError, match="no pope random F1"):
        card().row("pope", "F1", "random")


def test_markdown_before_after() -> None:
    text = card().to_markdown()
    assert "| metric | before [95%] | after [95%] | difference [95%] | p |" in text
    assert "| CHAIR_i ↓ | 33.3 [" in text and "| −24.2 [−" in text
    assert "CHAIR, after: 40 answers on 40 images, 1 truncated" in text
    assert "images left out: 2 (2 truncated)" in text
    assert "- careful" in text and "- how" in text


def test_markdown_of_one_model() -> None:
    text = card(before=None).to_markdown()
    assert "| metric | value [95%] |" in text and "before" not in text
    assert "| tokens | " in text


def test_undefined_is_said_not_shown_as_zero() -> None:
    nothing = chair.score(dict.fromkeys(TRUTH, "Nothing."), TRUTH, WORDS)
    rows = compare("chair", None, None, nothing.tally, BOOT)
    shown = card().model_copy(update={"rows": rows}).to_markdown()
    assert "| CHAIR_i ↓ | undefined |" in shown


def test_a_worse_change_shows_its_sign() -> None:
    assert "| +24.2 [+" in card(before=4, after=20).to_markdown()


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_table_fits_and_says_the_same(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(card())
    text = out.getvalue()
    assert ("33.3 [" in text) == (width == 100)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    interval = card().to_markdown().split("| CHAIR_i ↓ | 33.3 ")[1].split("]")[0] + "]"
    for piece in ("CHAIR_i ↓", "33.3", interval, "<0.001", "! careful"):
        assert piece in text


def test_no_difference_says_what_would_have_shown() -> None:
    rows = compare("chair", None, captions(20).tally, captions(19).tally, BOOT)
    shown = card().model_copy(update={"rows": rows}).to_markdown()
    change = rows[0].change
    assert change is not None and change.p >= 0.05 and change.detectable is not None
    assert f"{change.p:.3f} [≥{100 * change.detectable:.1f}] |" in shown
    assert "<0.001 [≥" not in card().to_markdown()


def test_many_splits_are_corrected_together() -> None:
    wrong = {"random": (10, 2), "popular": (9, 8), "adversarial": (12, 12)}
    rows = [
        row
        for split, (before, after) in wrong.items()
        for row in compare("pope", split, pope_result(before).tally, pope_result(after).tally, BOOT)
    ] + compare("pope", "all", pope_result(10).tally, pope_result(2).tally, BOOT)
    found = adjusted(rows, ["all"])
    p = [row.change.p for row in rows if row.metric == "accuracy" and row.change and row.split != "all"]
    q = [row.change.q for row in found if row.metric == "accuracy" and row.change and row.split != "all"]
    assert p == sorted(p)
    assert q == pytest.approx([3 * p[0], min(1.0, 1.5 * p[1]), 1.0])  # Benjamini and Hochberg's step-up by hand
    others = [row.change.q for row in found if row.change and (row.split == "all" or row.metric == "yes_ratio")]
    assert others and set(others) == {None}
    assert "[q 0.0" in card().model_copy(update={"rows": found}).to_markdown()


def test_categories_pair_single_answers() -> None:
    def tally(right: list[bool]) -> Tally:
        outcomes = dict(enumerate(right))
        return Tally(("a",), np.ones((1, 1)), (), outcomes, categories={i: "dog" if i < 6 else "cat" for i in outcomes})

    before, after = tally([False] * 6 + [True] * 4), tally([True] * 6 + [True] * 3 + [False])
    cat, dog = compare_categories("pope", before, after)
    assert (dog.name, dog.questions, dog.fixed, dog.broken) == ("dog", 6, 6, 0)
    assert dog.p == pytest.approx(2 / 2**6) and dog.q == pytest.approx(4 / 2**6)
    assert (cat.fixed, cat.broken, cat.p, cat.q) == (0, 1, 1.0, 1.0)
    assert (dog.after.low, dog.after.high) == (wilson(6, 6).low, 1.0)
    alone = compare_categories("pope", None, after)[0]
    assert alone.before is None and alone.p is None and alone.after.value == 0.75


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "scorecard.json"
    path.write_text(card().model_dump_json())
    assert Scorecard.read(path) == card()
    path.write_text("{}")
    with pytest.raises(UserError, match="not a scorecard"):
        Scorecard.read(path)
    with pytest.raises(UserError, match="does not exist"):
        Scorecard.read(tmp_path / "none.json")


def test_every_metric_has_an_interval_of_its_own() -> None:
    """A harness that gives precision, recall, F1 and yes-ratio the error of accuracy says nothing about them."""
    rows = {row.metric: row.after for row in compare("pope", "random", None, pope_result(10).tally, BOOT)}
    widths = {name: round(estimate.high - estimate.low, 3) for name, estimate in rows.items()}
    assert len(set(widths.values())) == len(widths)


def test_mme_intervals_are_on_the_scale_of_the_score() -> None:
    questions = [
        mme.MmeQuestion("count", f"{i}.jpg", f"Is it {label}?", label)  # type: ignore[arg-type]
        for i in range(30)
        for label in ("yes", "no")
    ]
    results = mme.score(questions, ["Yes" if i % 4 else "No" for i in range(60)])
    row = {row.metric: row.after for row in compare("mme", "count", None, results["count"].tally, BOOT)}["score"]
    assert row.value == pytest.approx(100 * 15 / 60)
    assert 10 < row.high - row.low < 100
    perfect = mme.score(questions, ["Yes", "No"] * 30)["count"].tally
    row = {row.metric: row.after for row in compare("mme", "count", None, perfect, BOOT)}["score"]
    assert row.value == row.high == 200 and 150 < row.low < 200


def test_digits() -> None:
    """Shares in percent have one digit; counts below ten have two, as lines a report are few."""
    assert [number(*pair) for pair in ((0.333, True), (0.043, False), (-1.5, False), (24.18, False))] == [
        "33.3", "0.04", "-1.50", "24.2",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 36, 60, 72, 80, 120])
def test_no_number_is_ever_cut(width: int) -> None:
    """Every cell of the scorecard stands whole on the screen, however narrow; words may wrap."""
    rows = compare("mme", "a long name of a split", captions(20).tally, captions(19).tally, BOOT)
    shown = card().model_copy(update={"rows": [*card().rows, *rows]})
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(shown)
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    flat = "".join(text.split())
    for row in shown.rows:
        for cell in shown._cells(row)[1:]:
            for piece in cell.replace(" [", "\n[").split("\n"):
                assert "".join(piece.split()) in flat


def test_a_verdict_in_three_plain_lines_comes_first() -> None:
    worse = compare("amber", None, captions(4).tally, captions(20).tally, BOOT)
    same = compare("mme", None, captions(20).tally, captions(19).tally, BOOT)
    shown = card().model_copy(update={"rows": [*card().rows, *worse, *same]})
    change = same[1].change
    assert change is not None and change.detectable is not None
    lines = [
        "Better: CHAIR CHAIR_s 50.0 → 10.0",
        "Worse: AMBER CHAIR_s 10.0 → 50.0; AMBER CHAIR_i 9.1 → 33.3",
        f"Not clear: MME CHAIR_s 50.0 → 47.5 (these images would show {100 * change.detectable:.1f}). Take care: "
        "1 warning under the table",
    ]
    assert shown.verdict() == lines
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(shown)
    assert out.getvalue().splitlines()[:3] == lines
    assert "how" not in out.getvalue().replace("how the numbers were made: scorecard.md", "").replace("show", "")
    markdown = shown.to_markdown()
    assert markdown.index(lines[0]) < markdown.index("| metric |") and "- how" in markdown
    assert card(before=None).verdict() == [
        "Measured: CHAIR CHAIR_s 10.0",
        "Rests on: 40 answers, of which 0 could not be read and 1 were cut off",
        "Take care: 1 warning under the table",
    ]


def test_metrics_say_what_they_mean_and_what_stands_for_a_benchmark() -> None:
    """Nothing about the benchmark `mine` is known to the scorecard but what its metrics say."""
    own = (
        share("seen", 0, 1, "higher", "things that are seen"),
        share("trust", 2, 1, "higher", "how far it may be believed", label="trust in it", headline=1),
        share("lies", 2, 1, "lower", sentence="Lies: {} % {of all}"),
    )
    counts = np.array([[1, 2, 1]] * 10)
    parts = {None: own, "early": own[2:]}
    rows = [
        row
        for split, metrics in parts.items()
        for row in compare("mine", split, None, Tally(tuple(map(str, range(10))), counts, metrics), BOOT)
    ]
    found = Scorecard(model="m", adapter=None, rows=rows, counts=[], conventions=[], warnings=[], quarantined={})
    assert found.verdict()[0] == "Lies: 50.0 % {of all} (early 50.0)"
    assert [row.metric for row in headline_rows([row for row in rows if not row.sentence])] == ["trust"]
    text = found.to_markdown()
    assert "| trust in it ↑ | 50.0" in text and "- MINE trust in it: how far it may be believed" in text
    again = Scorecard.model_validate_json(found.model_dump_json())
    assert again.to_markdown() == text
