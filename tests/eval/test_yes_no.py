"""The named parsers of yes/no answers, rule by rule."""

from __future__ import annotations

import pytest

from mmpo.errors import UserError
from mmpo.eval.yes_no import PARSERS, parse

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
    assert expected.keys() == PARSERS.keys()
    for name, (label, found) in expected.items():
        verdict = parse(text, name)
        assert (verdict.label, verdict.found) == (label, found), name


def test_unknown_parser() -> None:
    with pytest.raises(UserError, match="'offical'") as caught:
        parse("Yes", "offical")
    assert "official, llava, opera, vlmevalkit, lmms-eval" in str(caught.value)
