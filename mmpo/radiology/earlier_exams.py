"""References to earlier exams and the values of then, taken out of a sentence."""
# ruff: noqa: E501

from __future__ import annotations

import re
from functools import cache

from mmpo.radiology.lexicon import shipped_lexicon


@cache
def time_phrases() -> tuple[tuple[re.Pattern[str], str], ...]:
    """References to earlier exams and their values, each with what is left in its place."""
    words = shipped_lexicon().classes

    def compiled(pattern: str) -> re.Pattern[str]:
        for name, value in named:
            pattern = pattern.replace("{" + name + "}", value)
        for _ in range(3):
            for name in ("EXAM", "DATE", "MONTH", "NUMBER", "PRIORADJ", "PLACED", "DEVICE", "SURG"):
                pattern = pattern.replace("{" + name + "}", words[name])
        return re.compile(pattern, re.IGNORECASE)

    filler = r"(?:the|a|an|of|from|on|dated|at|in|for|chest|patient's|most|available|outside|hospital|single|frontal|portable|lateral|pa|ap|\d{1,2}:\d\d|am|pm|performed|obtained|made|with|to|same|day)"
    chest = r"((?:^|\band |\bbut |[;,] )(?:the )?(?:(?:both|left|right|upper|lower|middle) ){0,3}"
    wholly = r"(?:(?:now|since|also|completely|fully|entirely) )?"
    named = (
        ("ANY", r"(?:{FILL} ){0,6}(?:{PRIORADJ}|{EXAM}|{DATE}|(?:19|20)\d\d|before|previously)(?: (?:{FILL}|{PRIORADJ}|{EXAM}|{DATE})){0,12}\b"),
        ("OLD", r"(?:(?:{FILL} ){0,6}(?:(?:{PRIORADJ} )(?:{FILL} ){0,3}(?:{EXAM}|{DATE})|prior|previous|{DATE}|comparisons?|baseline)(?: (?:{FILL}|{PRIORADJ}|{EXAM}|{DATE})){0,12}|before|previously|earlier)\b"),
        ("FILL", filler),
        ("END", r"(?:'s)?(?: (?:films?|study|exam))?(?=[ ,.;)]|$)(?! (?:\w+ )?{SURG}\b)"),
        ("GRADE", r"(?:mild|moderate|severe|minimal|small|large|trace|tiny|marked|massive|normal|clear)(?:ly)?"),
        ("SIZE", r"\d[\d.]*(?: ?x ?[\d.]+)*(?: ?(?:cm|mm))?"),
        ("LOOK", r"(?:seen|noted|described|identified|demonstrated|visuali[sz]ed|shown|reported|present|questioned)"),
    )  # fmt: skip
    table = (
        (r"^comparison (?:with|to) {ANY} (?:shows?|demonstrates?|reveals?) ", ""),
        (
            r"^(?:(?:as |when )?compar(?:ed|ing) (?:to|with)|in comparison (?:to|with)|comparison is made (?:to|with)|relative to|since|as (?:{LOOK} )?on|from|on) {ANY},? ?",
            "",
        ),
        (
            r"^(?:as before|as (?:previously|earlier)(?: {LOOK})?|in the (?:interval|interim|meantime)|(?:once )?again|{DATE}|previously|now|currently),? (?!(?:{LOOK}|{GRADE}) )",
            "",
        ),
        (
            r"^(?:since|after|following) (?:the )?(?:interval )?(?:removal|insertion|placement|drainage|thoracentesis|diuresis|extubation|intubation|bronchoscopy)(?: of (?:the |a )?(?:[\w-]+ ){0,3}[\w-]+)?, ?",
            "",
        ),
        # another verb
        (r"\b(?:has|is) (?:\w+ly )?(?:returned|reverted|back) to (?=normal)", "is "),
        (r"\b(?:have|are) (?:\w+ly )?(?:returned|reverted|back) to (?=normal)", "are "),
        (
            r"\b(has|have) (\w+ly )?(?:enlarged|lessened|doubled|tripled|halved|(?:come|gone) (?:down|up)|subsided|waned|moved|migrated)\b",
            r"\1 changed",
        ),
        (rf"{chest}(?:lung|lobe|base|apex|hemithorax)) has {wholly}cleared\b(?! of)", r"\1 is clear"),
        (rf"{chest}(?:lungs|lobes|bases|apices|angles)) have {wholly}cleared\b(?! of)", r"\1 are clear"),
        # values of before
        (r", {GRADE} on {OLD},", ""),
        (r",? ?\b(?:over|on|across) (?:multiple|several|serial|many) (?:\w+ )?{EXAM}{END}", ""),
        (r"(?:,? (?:but|and))? ?\bfrom (?:{GRADE}|{SIZE}) to (?=\w)", " "),
        (
            r",? ?\(?\b(?:previously|formerly|(?:down |up |increased |decreased )?from|prior|versus|compared (?:to|with)|used to (?:be|measure))(?: (?:measur\w+|about|approximately|at|was))? (?:{SIZE}|{GRADE})(?: (?:to|and) {GRADE})?(?: in size)?(?: (?:on|in|at)? ?{OLD})?{END}\)?,?",
            "",
        ),
        (
            r",? ?\b(?:which )?(?:measured|was|were)(?: \w+ly)? (?:{SIZE}|{GRADE})(?: (?:on|in|at))?(?: {OLD})?,?(?: (?:and|but))?(?= (?:and |but )?(?:now )?(?:is|are|has|have|now|measures?)\b)",
            "",
        ),
        # references
        (r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )\b(?:not |never )?{LOOK} (?:on|in|at) {OLD}{END}", ""),
        (
            r",? ?\b(?:following|after|since|post) (?:the )?(?:interval )?removal of (?:the |an? )?(?:[\w-]+ ){0,3}{DEVICE}(?=[ ,.;]|$)",
            "",
        ),
        (
            r",? ?\b(?:(?:as |when |is |are )?(?:in )?compar(?:ed|ison)(?: is made)?(?: (?:to|with))?|relative to|since|than|from|(?:dating|going|dates|goes) back to(?: at least)?|dating (?:to|from)) {ANY}{END}",
            "",
        ),
        (
            r",? ?\b(?:(?:in|at) )?(?:the )?(?:as|similar to|identical to|like|to|on|in|same as|at)(?: (?:was |were )?{LOOK})?(?: (?:on|in|of|at))? {OLD}{END}",
            "",
        ),
        (r",? ?\b(?:as|than) (?:before|previously|prior|earlier|yesterday|last time)(?: {LOOK})?{END}", ""),
        (
            r",? ?\b(?:over|in|within|during) (?:the )?(?:past|last|intervening|{NUMBER}) (?:\w+ )?(?:hours?|days?|weeks?|months?|years?)\b|,? ?\bover time\b",
            "",
        ),
        (
            r",? ?\b(?:following|after|since|post) (?:the |a )?(?:[\w-]+ ){0,3}(?:removal|insertion|placement|drainage|thoracentesis|diuresis|extubation|intubation|bronchoscopy)(?=[,.;]|$)",
            "",
        ),
        (r"\b(?:previously|formerly|earlier) (?:{LOOK}|placed|known) ", ""),
        (
            r"(?:,? (?:and|but))?,? ?\b(?:in the (?:interval|interim|meantime)|intervally|as previously|as before){END}",
            "",
        ),
        (r", (?:now|still|currently) (?=(?:only |at most )?(?:{GRADE}|{SIZE})\b)", ", "),
        (r",? ?\b(?:now|still|currently|today|once again|again)\b(?!,? \d+ ?years)", ""),
    )
    return tuple((compiled(pattern), left) for pattern, left in table)


_TIDY = ((re.compile(r"\s+"), " "), (re.compile(r"\(\s*\)"), ""), (re.compile(r" (?=[,.;])"), ""))


def without_time(text: str) -> str:
    """The text without references to earlier exams and their values; words of change stay."""
    text = " ".join(text.split())
    for pattern, left in time_phrases():
        text = pattern.sub(left, text)
    for pattern, left in _TIDY:
        text = pattern.sub(left, text)
    return text.strip(" ,")
