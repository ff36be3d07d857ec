"""The named parsers of yes/no answers, rule by rule."""

from __future__ import annotations

import pytest

from mmpo.errors import UserError
from mmpo.eval.yes_no import PARSERS, first_word, parse, vcd

NO, YES = ("no", True), ("yes", True)
DEFAULT_YES, UNKNOWN = ("yes", False), (None, False)


@pytest.mark.parametrize(
    ("text", "official", "opera", "vlmevalkit", "lmms_eval"),
    [
        ("Yes", YES, YES, YES, YES),
        ("No", NO, NO, NO, NO),
        (" no", NO, NO, NO, NO),
        ("No.", NO, NO, NO, UNKNOWN),
        ("Yes, there is a dog.", YES, YES, YES, UNKNOWN),
        ("No, there is no dog", NO, NO, NO, UNKNOWN),
        ("not sure", NO, NO, UNKNOWN, UNKNOWN),
        ("There is no dog", NO, NO, NO, UNKNOWN),
        ("I do not know. Yes", NO, NO, YES, UNKNOWN),
        ("Yes. No", YES, NO, UNKNOWN, UNKNOWN),
        ("NO", DEFAULT_YES, NO, NO, NO),
        ("Not", DEFAULT_YES, DEFAULT_YES, UNKNOWN, UNKNOWN),
        ("No!", DEFAULT_YES, DEFAULT_YES, NO, UNKNOWN),
        ('"No"', DEFAULT_YES, DEFAULT_YES, NO, UNKNOWN),
        ("None", DEFAULT_YES, DEFAULT_YES, UNKNOWN, UNKNOWN),
        ("nothing", DEFAULT_YES, DEFAULT_YES, UNKNOWN, UNKNOWN),
        ("There isn't", DEFAULT_YES, NO, UNKNOWN, UNKNOWN),
        ("No\n", DEFAULT_YES, DEFAULT_YES, NO, NO),
        ("no\tx", DEFAULT_YES, DEFAULT_YES, NO, UNKNOWN),
        ("", DEFAULT_YES, DEFAULT_YES, UNKNOWN, UNKNOWN),
        ("The image shows a dog.", DEFAULT_YES, DEFAULT_YES, UNKNOWN, UNKNOWN),
        ("yes-no", YES, YES, UNKNOWN, UNKNOWN),
        ("1,000 no-one", DEFAULT_YES, DEFAULT_YES, UNKNOWN, UNKNOWN),
        ("no-one", DEFAULT_YES, DEFAULT_YES, NO, UNKNOWN),
    ],
)
def test_rules(text: str, official: tuple, opera: tuple, vlmevalkit: tuple, lmms_eval: tuple) -> None:
    expected = {
        "official": official,
        "llava": official,
        "opera": opera,
        "vlmevalkit": vlmevalkit,
        "lmms-eval": lmms_eval,
    }
    assert {*expected, "dash"} == PARSERS.keys()
    for name, (label, found) in expected.items():
        verdict = parse(text, name)
        assert (verdict.label, verdict.found) == (label, found), name


def test_unknown_parser() -> None:
    with pytest.raises(UserError, match="'offical'") as caught:
        parse("Yes", "offical")
    assert "official, llava, opera, vlmevalkit, lmms-eval" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "dash", "vcd_right", "naturalbench"),
    [
        ("No, yes", "yes", (True, True), 0),
        ("eyes", "yes", (True, False), None),
        ("cannot tell", "no", (False, True), None),
        ("maybe", None, (False, False), None),
        ("", None, (False, False), None),
        ("nope", "no", (False, True), None),
        ("Not sure", "no", (False, True), None),
        ("Yesterday", "yes", (True, False), None),
        (" Yes", "yes", (True, False), 1),
        ("**No**", "no", (False, True), 0),
        ("not yes", "yes", (True, True), 1),
        ("No, it is not. Yes.", "yes", (True, True), 0),
        ("none", "no", (False, True), None),
    ],
)
def test_rules_of_letters_and_words(
    text: str, dash: str | None, vcd_right: tuple[bool, bool], naturalbench: int | None
) -> None:
    assert parse(text, "dash").label == dash
    assert (vcd(text, "yes").label == "yes", vcd(text, "no").label == "no") == vcd_right
    assert first_word(text, {"yes": 1, "no": 0}) == naturalbench


@pytest.mark.parametrize(
    ("text", "read"), [("The answer is a dog: B", 1), ("(b)", 0), ("Both", None), ("A", 1), ("", None)]
)
def test_naturalbench_reads_letters(text: str, read: int | None) -> None:
    assert first_word(text, {"a": 1, "b": 0}) == read
