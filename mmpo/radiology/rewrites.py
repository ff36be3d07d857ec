"""A small grammar that rewrites a sentence without its course: clauses of a subject, a verb and a predicate.

References to earlier exams go first (`without_time`). What is left of each clause loses its words of change;
where they were the whole predicate, the subject is present, if it is a finding or a device and not just a part of the
body. `claims.keeps_claims` decides afterwards whether the result may be used, so a rule here may fail but not lie.
"""
# ruff: noqa: E501

from __future__ import annotations

import re

from mmpo.radiology.claims import (
    ADVERB,
    ASPECT,
    CHANGE,
    CHANGED,
    GONE,
    MOVED,
    NEARLY,
    NO_NEW,
    PARTLY_GONE,
    REMOVED,
    SEEN,
    STATIC,
    VERB,
    is_bare,
    split_clauses,
)
from mmpo.radiology.earlier_exams import without_time

_STATE = rf"(?:{ADVERB}{{0,4}}(?:in (?:an? |the )?(?=[\w-]+(?: same)? {ASPECT}))?(?:{CHANGED}|(?:been )?{MOVED})(?:,? ?in (?:overall |the )?{ASPECT}(?: and {ASPECT})?)?)"
_STATES = re.compile(
    rf"^,? ?{_STATE}(?:,? (?:(?:and|or|but|to) )?{_STATE})*(?![\w-])(?: {ASPECT}\b)?,? ?", re.IGNORECASE
)
_TRAILING = re.compile(rf",? (?:and |but )?{_STATE}(?:,? (?:and|or|but|to) {_STATE})*$", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    rf"\b(?:interval(?:ly)? |slightly |mildly |minimally |markedly |significantly |moderately )?(?<!-)(?:(?:not significantly )?{CHANGED}"
    rf"|interval|interim|stably)(?: and {CHANGED})?,? (?!{STATIC})(?=[\w.]+)",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    rf"^(?:the |an? |any )?(?:overall )?{ASPECT}(?:,? (?:and|or) {ASPECT})?(?: of)(?: the| a| an)? ", re.IGNORECASE
)
_DEGREE = r"(?:(?:mild|slight|minimal|moderate|marked|significant|substantial|interval|further|gradual|interim|continued|overall|definite|no|not|without|little|any|a|an|the|some|new|appreciable|relevant|large|small|great) ){0,4}"
_THERE = r"(?:there (?:is|are|has been|have been|was|were) )?"
_CLAUSE = re.compile(
    r"^(?P<s>(?!there\b).+?),? (?P<v>(?:has|have) (?:\w+ly |since |also )?been|has|have|is|are|appears?|looks?|remains?|remained|"
    r"continues? to be|stays?|persists?|persisted|was|were)\b,? ?(?P<p>.*)$",
    re.IGNORECASE,
)
_FINITE = re.compile(rf"^(?:and |but )?{VERB}\b", re.IGNORECASE)
_PLACE = re.compile(
    r"^(?:in|at(?! (?:the )?upper limit)|on|along|over|overlying|within(?! (?:the )?(?:normal|expected))|throughout|bilaterally|involving|measuring|predominantly|projecting|along|with|without|likely|most likely|probably|possibly|which|particularly|especially|including|representing|reflecting|suggesting|suggestive|(?:left|right)(?: side)? (?:more|greater|worse))\b",
    re.IGNORECASE,
)
_GRADE = re.compile(r"\b(?:mild|moderate|severe|small|large|trace|minimal|residual|\d)", re.IGNORECASE)
_PROPER = re.compile(r"^(?:[A-Z]{2}|[A-Z]\w*-[A-Z]|Swan|Dobhoff|Dobbhoff|Kerley)")


_PRESUPPOSED = re.compile(
    rf"\b(?:previously|formerly|prior|previous|earlier)\b.*\b(?:not|never|cannot be) (?:\w+ )?{SEEN}\b|"
    rf"\b{SEEN}\b.* last (?:week|month|year|night)\b.*\b(?:cleared|resolved|gone|disappeared|vanished)\b|"
    rf"\b(?:clear|free) of (?:the )?(?:previously|prior|previous)\b",
    re.IGNORECASE,
)
"""Findings seen before and gone now: to deny one would refer to the earlier exam."""


def rewrite(body: str) -> str | None:
    """The sentence without its course (not finished), or None where nothing of it can be seen in this image."""
    body = " ".join(body.split()).rstrip(". ")
    if _PRESUPPOSED.search(body):
        return None
    said = [(joiner, rewrite_clause(clause)) for joiner, clause in split_clauses(without_time(body))]
    kept = [(joiner, text) for joiner, text in said if text]
    if not kept:
        return None
    text = kept[0][1]
    for joiner, clause in kept[1:]:
        mark = joiner.strip()
        first = clause if _PROPER.match(clause) else clause[0].lower() + clause[1:]
        text += (
            (". " + clause[0].upper() + clause[1:])
            if mark == "."
            else ("" if mark[0] in ";," else " ") + mark + " " + first
        )
    return text


_CONTINUES = tuple(
    (re.compile(pattern, re.IGNORECASE), left)
    for pattern, left in (
        (r"\b(there) (?:remains|continues to be|persists)\b", r"\1 is"),
        (r"\b(there) (?:remain|continue to be|persist)\b", r"\1 are"),
        (r"\b(there) (?:has been|have been) ", r"\1 is "),
        (r"^(?:re-?demonstrated|re-?identified) (?!is\b|are\b)", ""),
        (r"\b(?:re-?demonstrated|re-?identified)\b", "seen"),
        (r"\b(there (?:is|are)) (?:\w+ly |somewhat |much )?less ", r"\1 "),
    )
)


def rewrite_clause(clause: str) -> str | None:
    """One clause in the present, or None."""
    clause = re.sub(r"^(?:and|but|with) ", "", clause.strip(" ,"), flags=re.IGNORECASE)
    if re.search(r"re-?expanded$", clause) or NO_NEW.search(clause.lower()) or REMOVED.search(clause.lower()):
        return None
    clause = re.sub(
        rf"\b(has|have|is|are) (?:not (?:\w+ ){{0,2}}|{ADVERB}{{0,2}}?{NEARLY} (?:completely |entirely )?){GONE}\b",
        lambda m: "persists" if m[1] in ("has", "is") else "persist",
        clause,
        flags=re.IGNORECASE,
    )
    plain = attributes(clause)
    if plain != clause and is_bare(re.sub(rf"\b{VERB}\b", "", plain)):
        return None  # "the patient has taken a better breath"
    clause = re.sub(rf"^(?:{_STATE}), (?=\w)", "", clause, flags=re.IGNORECASE)
    for pattern, say in _FORMS:
        match = pattern.match(clause)
        if match:
            return say(match)
    for pattern, left in _CONTINUES:
        clause = pattern.sub(left, clause)
    match = _CLAUSE.match(clause)
    return _predicated(match) if match else _fragment(clause)


def _absent(match: re.Match[str]) -> str | None:
    what = attributes(_article_free(match["x"]))
    return None if is_bare(what) or _listed(what) else f"No {_lower(what)}"


def _changed(match: re.Match[str]) -> str | None:
    what = attributes(_AMOUNT.sub("", match["x"]))
    state = re.match(rf"(?P<x>[^,]+), (?:which (?P<v>.+)|(?P<g>{_GRADE.pattern}[^,]*|clear))$", what, re.IGNORECASE)
    grown = re.match(r"(?P<x>[^,]+?) to (?P<size>\d.*)$", what)
    if grown:  # "increase of the mass to 4.8 cm"
        subject = _article_kept(match, grown["x"])
        return f"{subject} {_be(subject)} {grown['size']}"
    if state:  # "improvement in the edema, now mild": the state of today comes after
        subject = _article_kept(match, state["x"])
        return f"{subject} {state['v'] or _be(subject) + ' ' + state['g']}"
    if is_bare(_head(what)) or re.match(r"improve", match["c"], re.IGNORECASE):
        return None
    fragment = "no" in match["d"].lower() or "little" in match["d"]
    return _article_kept(match, what) if fragment else _present(_article_kept(match, what))


def _again(match: re.Match[str]) -> str:
    what = attributes(match["x"])
    return f"{_closed(what)} {_be(what)} {(match.groupdict().get('v') or 'seen').lower()}"


_FORMS = tuple(
    (re.compile(pattern, re.IGNORECASE), say)
    for pattern, say in (
        (
            rf"^(?:there (?:is|are) no longer|no longer {SEEN} (?:is|are)|(?:interval |complete )*resolution of)"
            r"(?: an?| any| the)? (?P<x>.+)$",
            _absent,
        ),
        (
            rf"^(?P<x>.+?),? (?:(?:has|have) {ADVERB}{{0,3}}{GONE}|(?:is|are) {ADVERB}{{0,3}}(?:{GONE}|no longer {SEEN}))$",
            _absent,
        ),
        (
            rf"^{_THERE}(?:interval )?{PARTLY_GONE} of(?: the| an?)? (?P<x>.+)$",
            lambda match: _stated(attributes(match["x"])),
        ),
        (rf"^{_THERE}(?P<d>{_DEGREE})(?P<c>{CHANGE}) (?:in|of|to|from)(?P<a> the| an?)? (?P<x>.+)$", _changed),
        (
            rf"^{_THERE}(?:status post )?(?:(?:interval|new|interim) )*(?:placement|insertion|introduction) of (?P<x>.+)$",
            lambda match: _present(attributes(match["x"])),
        ),
        (rf"^{_THERE}(?:re-?demonstration|re-?identification) of (?P<x>.+)$", _again),
        (rf"^{_THERE}(?:(?P<v>{SEEN})|re-?demonstrated|re-?identified) (?:is|are) (?P<x>.+)$", _again),
    )
)
"""Clauses that are one phrase about change, and the state of today in each. `x` is the finding."""


def _fragment(clause: str) -> str | None:
    """A noun phrase, or "there is …"."""
    whole = clause
    if re.search(rf", {_STATE} (?:on|in|at) the (?:left|right)\b", clause, re.IGNORECASE):
        return None  # the side is that of the change
    clause = re.sub(
        rf"^({_THERE}){_DEGREE}{CHANGED} {ASPECT} of (?:the |an? )?",
        r"\1",
        clause,
        flags=re.IGNORECASE,
    )
    clause = _TRAILING.sub("", clause)
    clause = re.sub(
        rf",? (?:with|without)(?: no)? {_DEGREE}{CHANGE}(?: in {ASPECT})?$", "", clause, flags=re.IGNORECASE
    )
    clause = attributes(clause)
    clause = re.sub(r"^(?:there (?:is|are) )?(?:no |little |minimal )?$", "", clause, flags=re.IGNORECASE)
    what = re.sub(rf"^(?:{_AMOUNT.pattern[1:]})", "", clause, flags=re.IGNORECASE)
    if re.match(r"(?:there (?:is|are) )?(?:\w+ly |interval )?improved\b", whole, re.IGNORECASE) and not _GRADE.search(
        what
    ):
        return None
    return _stated(what)


def _stated(what: str) -> str | None:
    """A noun phrase, if it says more than a part of the body; what the chest comes with, where it doesn't."""
    if not is_bare(_head(what)):
        return what
    company = re.match(r"[^,]+? with (.+)$", what)
    return attributes(company[1]) if company and not is_bare(_head(company[1])) else None


_THIRD_PERSON = {
    "involve": "involves",
    "occupy": "occupies",
    "fill": "fills",
    "affect": "affects",
    "include": "includes",
}


def _predicated(match: re.Match[str]) -> str | None:
    subject, verb, predicate = attributes(match["s"]), match["v"].lower(), match["p"]
    subject = _AMOUNT.sub(lambda m: "" if _STATES.match(predicate) else m[0], subject)
    plural = verb.split()[0] in ("are", "have", "remain", "continue", "appear", "look", "stay", "persist", "were")
    be = "are" if plural or (verb in ("remained", "persisted") and _be(subject) == "are") else "is"
    improved = re.search(r"\bimprove(?:d|ment)\b", f"{match['s']} {predicate}", re.IGNORECASE)
    predicate = re.sub(
        rf"^(?:not|without|with no|with little) {ADVERB}{{0,2}}(?:{CHANGED}|{CHANGE})(?: in {ASPECT})?",
        "unchanged",
        predicate,
    )
    predicate = re.sub(rf",? (?:with|without)(?: no)? {_DEGREE}{CHANGE}(?: in {ASPECT})?(?=,|$)", "", predicate)
    states = _STATES.match(predicate)
    rest = predicate[states.end() :] if states else predicate
    trailing = _TRAILING.sub("", rest)
    changed = (
        not predicate or bool(states) or trailing != rest or verb.startswith(("remain", "continue", "persist", "stay"))
    )
    rest = trailing.strip(" ,")
    if _FINITE.match(rest) and changed:
        return rewrite_clause(f"{subject} {re.sub(r'^(?:and|but) ', '', rest)}")
    infinitive = re.match(rf"to ({'|'.join(_THIRD_PERSON)})\b(.*)$", rest)
    if infinitive:
        return f"{subject} {infinitive[1] if be == 'are' else _THIRD_PERSON[infinitive[1]]}{infinitive[2]}"
    rest = re.sub(r"^(?:and|but|or|to) ", "", rest)
    rest = re.sub(rf"^{SEEN}$", "", rest) if changed else rest
    rest = re.sub(r"^into\b", "in", rest)
    if re.match(r"(?:for|by|from|to|as|than) ", rest):
        return None
    if re.fullmatch(r"(?:has|have|appears?|looks?)", verb) and not changed:
        verb_kept = f"{subject} {match['v']} {attributes(rest)}"
        return verb_kept if rest else None
    what = re.search(r"^with (.+)$", rest)
    if what and is_bare(subject):
        return attributes(what[1])
    if not rest and re.search(r", (?:which|that)$", subject):
        return subject.rpartition(",")[0]
    if not rest:
        return None if is_bare(_head(subject)) or improved else _present(subject, be)
    if improved and not _GRADE.search(rest):
        return None
    rest = attributes(rest)
    if states and _PLACE.match(rest):
        if is_bare(_head(subject)):
            return None
        comma = (
            ","
            if re.match(r"(?:likely|most|left|right|prob|poss|which|part|espec|incl|repr|refl|sugg|measuring)", rest)
            else ""
        )
        return f"{_closed(subject)} {be} present{comma} {rest}"
    kept = match["v"] if not changed and verb in ("is", "are", "was", "were") else be
    return f"{_closed(subject)} {kept} {rest}"


def attributes(phrase: str) -> str:
    """A phrase without adjectives of change."""
    phrase = re.sub(
        rf",? ?\bin (?:an? |the )?(?:unchanged|stable|similar|same) {ASPECT}\b",
        " in place" if re.search(r"(?:unchanged|stable|similar|same) \w+$", phrase) else "",
        phrase,
        flags=re.IGNORECASE,
    )
    phrase = (
        re.sub(rf"({_GRADE.pattern}\w*) (?:and|but) {_STATE}(?= [a-z])", r"\1", phrase, flags=re.IGNORECASE)
        if not re.search(r"\b(?:is|are)\b", phrase)
        else phrase
    )
    phrase = re.sub(rf",? (?:which|that) (?:has|have|is|are) {_STATE}(?=,|$)", "", phrase, flags=re.IGNORECASE)
    for _ in range(3):
        phrase = _ATTRIBUTE.sub("", phrase)
    return re.sub(r"\bwith (?:increase|decrease|worsening|improvement) (?:in|of) ", "with ", phrase)


def _present(what: str, be: str | None = None) -> str:
    return f"{_closed(what)} {be or _be(what)} present"


_APPOSITION = re.compile(
    r", (?:which|with|the|left|right|measuring|greater|likely|most|probably|possibly|particularly|especially|including|"
    r"largest|predominantly|worse|consistent|suggesting|representing)\b(?!.* and )[^,]*$",
    re.IGNORECASE,
)


def _closed(subject: str) -> str:
    """A subject with the comma that closes an apposition, where it has one."""
    return f"{subject}," if _APPOSITION.search(subject) else subject


def _article_kept(match: re.Match[str], what: str) -> str:
    article = (match["a"] or "").strip()
    return f"{article} {what}" if article and not match["d"].lower().startswith(("no", "little")) else what


def _article_free(phrase: str) -> str:
    return re.sub(r"^(?:the|an?|any) ", "", phrase, flags=re.IGNORECASE)


def _lower(phrase: str) -> str:
    return phrase if _PROPER.match(phrase) else phrase[:1].lower() + phrase[1:]


def _listed(phrase: str) -> bool:
    return bool(re.search(r"\b(?:but|with)\b", phrase))


def _head(phrase: str) -> str:
    return re.split(r",| (?:with|which|that|without) ", phrase)[0]


_PLURAL = re.compile(r"(?:s|ices|ae|oci)$")


def _be(subject: str) -> str:
    """ "is" or "are" for a noun phrase, by the head before its first preposition."""
    head = re.split(
        r" (?:in|at|of|with|over|on|within|along|overlying|from|projecting|terminating|involving|and the) ", subject
    )[0]
    if re.search(r"\b(?:and|both|two|three|multiple|several|bilateral \w+s)\b", head, re.IGNORECASE):
        return "are"
    word = head.split()[-1].lower().strip(",.") if head.split() else ""
    singular = word.endswith(("ss", "is", "us", "thorax", "ous"))
    return "are" if _PLURAL.search(word) and not singular else "is"
