"""Claims of a sentence about its image, as words with their polarity; they are the check of every edit.

A claim is compared in its place: references to earlier exams and words of change are taken out first; what is left of
the line (findings known or not, sides, sizes, severities, normal states) has to stand in the edit with the same
polarity, in the same order, between the same conjunctions. So nothing vanishes or appears, and no side or measurement
moves to another finding. Two other orders are known: parts between conjunctions in another order, and a predicate in
front ("Edema is mild" is "Mild edema").
"""
# ruff: noqa: E501

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations, pairwise

from mmpo.radiology.detector import normalise
from mmpo.radiology.earlier_exams import without_time
from mmpo.radiology.lexicon import shipped_lexicon

ADVERB = (
    r"(?:(?:very|quite|much|now|since|also|both|still|yet|overall|grossly|essentially|largely|relatively|otherwise|"
    r"somewhat|slightly|mildly|minimally|moderately|markedly|significantly|substantially|considerably|further|"
    r"completely|entirely|fully|gradually|mostly|nearly|almost|partially|probably|perhaps|likely|clearly|fairly|"
    r"intervally|interval|in the interval|greatly|rapidly|again|therefore) )"
)
ASPECT = (
    r"(?:size|extent|severity|degree|amount|number|volume|appearance|position|positions|positioning|location|"
    r"placement|configuration|alignment|density|conspicuity|prominence|distribution|character|morphology|course)"
)
CHANGED = (
    r"(?:unchanged|unaltered|stable|static|similar|the same|(?:not|little|never) (?:\w+ly )?(?:changed|different)|changed|re-?expanded|increas(?:ed|ing)|decreas(?:ed|ing)|"
    r"diminish(?:ed|ing)|reduced|improv(?:ed|ing)|worse(?:ned|ning)?|worsening|progress(?:ed|ing|ive)|persist(?:ent|ing)|"
    r"resolving|evolv(?:ed|ing)|enlarging|growing|grown|larger|smaller|bigger|better(?: (?:aerated|expanded|inflated|seen|defined))?|higher|denser|fewer|"
    r"(?:more|less) (?:prominent|conspicuous|extensive|dense|confluent|pronounced|apparent|evident|severe|well seen)|"
    r"lower(?= ?(?:$|[,;]|and there|with\b))|residual|recurrent|ongoing|continued|new|newly (?:apparent|developed|seen|placed|noted)|newly|"
    r"(?:re-?)?developed|appeared|recurred|re-?accumulated|partially (?:cleared|resolved)|shrunk|become (?:more|less) \w+)"
)
MOVED = (
    r"(?:placed|inserted|introduced|added|advanced|repositioned|retracted|exchanged|replaced|adjusted|withdrawn|"
    r"pulled back|reinserted|upsized)(?: by [\d.]+ ?(?:cm|mm))?"
)
GONE = r"(?:resolved|cleared|disappeared|vanished|gone)"
SEEN = r"(?:seen|visible|visuali[sz]ed|present|identified|evident|apparent|appreciated|noted|demonstrated)"
CHANGE = (
    r"(?:changes?|alterations?|differences?|increases?|decreases?|improvements?|worsening|progression|reductions?|"
    r"enlargement|growth|development|re-?accumulation|redistribution|deterioration)"
)
BARE = frozenset(
    re.findall(
        r"\S+",
        "the a an this that of and or in overall general remaining remainder rest other visualized visualised imaged "
        "left right bilateral both upper lower mid middle heart cardiac cardiomediastinal mediastinum mediastinal hila "
        "hilar hilum aorta aortic trachea tracheal lung lungs lobe lobes pulmonary vascular vasculature vascularity "
        "markings diaphragm diaphragms hemidiaphragm hemidiaphragms bone bones bony osseous skeletal structures spine "
        "thoracic ribs cage thorax chest abdomen pleura pleural soft tissues silhouette silhouettes contour contours "
        "border borders size sizes shape appearance position positions positioning alignment configuration course tip "
        "tips examination exam study radiograph film finding findings aeration ventilation volume volumes status "
        "picture situation pattern inspiration base bases apex apices hemithorax bibasilar basilar basal bibasal biapical apical space spaces cardiopulmonary process "
        "its it patient takes taken breath extent severity degree amount number patient's parenchyma architecture upper-lobe angle angles",
    )
)
"""Words of a noun phrase that names a part of the body and no state of it."""


VERB = (
    r"(?:is|are|was|were|has|have|had|remains?|remained|persists?|appears?|continues?|shows?|demonstrates?|measures?|"
    r"ends?|terminates?|projects?|lies?|extends?|courses|overlies|overlie|involves?)"
)
_SUBJECT = rf"(?:(?!(?:{VERB}|and|but|which|that)\b)[\w'/-]+ ){{1,8}}{VERB}\b"
_FINITE = re.compile(rf"\b{VERB}\b", re.IGNORECASE)
_SPLIT = re.compile(
    rf"(,? \bbut\b|,? \b(?:while|whereas|although|however)\b,?|,? \band\b|,)(?= (?:there |{_SUBJECT}))|(;)|(\.)(?= )",
    re.IGNORECASE,
)


_NOTHING_NEW = re.compile(
    r"(?<=\w),? (?:(?:and|but) )?((?:no|without) (?:evidence of |definite |any )?new\b)(?! change)", re.IGNORECASE
)


def split_clauses(text: str) -> list[tuple[str, str]]:
    """Finite clauses with the joiner before each: two of them only where both sides have a verb of their own. What is
    not new is a clause of its own too, as it leaves open what the others say."""
    text = _NOTHING_NEW.sub(r"; \1", text)
    clauses: list[tuple[str, str]] = []
    at, joiner = 0, ""
    for match in _SPLIT.finditer(text):
        if not (match[2] or match[3] or _FINITE.search(text[at : match.start()])):
            continue
        clauses.append((joiner, text[at : match.start()].strip()))
        joiner, at = match[0], match.end()
    return [*clauses, (joiner, text[at:].strip())]


def is_bare(phrase: str) -> bool:
    """True if a noun phrase names parts of the body (or nothing) and no state: its change says nothing."""
    return all(word in BARE for word in re.findall(r"[a-z'-]+", phrase.lower()))


STATIC = shipped_lexicon().classes["STATIC"]
_AMOUNT = re.compile(rf"\b(?:the )?{ASPECT}s? of (?:the )?")
NO_NEW = re.compile(r"\b(?:no|without|nor|nothing)\b (?:\w+ ){0,3}?(?:new|interval|increas\w+|worsening)\b(?! change)")
NO_CHANGE = rf"(?:no|not|without|little|minimal|any)(?: [\w-]+){{0,3}}? (?:{CHANGE}|changed)"
REMOVED = re.compile(
    r"\b(?:(?:has|have) not (?:\w+ ){0,2}(?:recurred|developed|appeared|re-?accumulated|re-?appeared)|"
    r"(?:was|were) not\b|(?:has|have|had|was|were|is|are) (?:\w+ ){0,2}(?:removed|discontinued|taken out|extubated)|removal of)\b"
)
NEARLY = r"(?:nearly|almost|largely|mostly|partially|partly|near|incompletely)"
PARTLY_GONE = r"(?:near(?:ly)?|almost|partial(?:ly)?|incomplete)[ -](?:complete |total )?(?:resolution|clearing|clearance|resorption)"
_GONE_AFTER = re.compile(
    rf"\b(?:(?:has|have) {ADVERB}{{0,3}}{GONE}|(?:is|are|was|were) {ADVERB}{{0,3}}(?:{GONE}|absent)|"
    rf"(?:is|are|was|were) (?:not|no longer) {ADVERB}{{0,2}}{SEEN}(?=\W*$)|no longer {SEEN}(?=\W*$))(?! of)"
)
_VOCABULARY = re.compile(
    rf"\b(?:(?<=there is )(?:\w+ly |somewhat |much )?less(?= )|{NO_CHANGE}(?: (?:in|of)\b)?(?: the)?(?: {ASPECT}(?: of)?\b)?|"
    rf"(?:(?:mild|slight|minimal|moderate|marked|significant|substantial|interval|further|gradual|interim) ){{0,2}}"
    rf"{CHANGE} (?:in|of)\b(?: the {ASPECT} of)?|{NEARLY} (?:completely |entirely )?{GONE}|"
    rf"(?:interval |new |interim ){{1,2}}(?:placement|insertion|introduction|removal) of|"
    rf"(?:placement|insertion|introduction|re-?demonstration|re-?identification) of|"
    rf"in (?:an? |the )?(?:unchanged|stable|similar|same) {ASPECT}|"
    rf"(?:not (?:significantly |substantially |appreciably )?)?{ADVERB}{{0,3}}(?<!-){CHANGED}(?! {STATIC})(?: in {ASPECT}(?: and {ASPECT})?)?|"
    rf"(?:has|have) (?:\w+ )?been (?:\w+ )?{MOVED}|interval|interim|"
    rf"(?:is |are )?(?:re-?demonstrated|re-?identified)|remain(?:s|ed|ing)?|continu(?:es?|ed)|persists?|persisted)\b"
)
_FUNCTION = frozenset(
    re.findall(
        r"\w+",
        "a an the is are was were be been being there here of in at on to by from for as it its this that these those "
        "which has have had seen noted present visualized visualised identified evident demonstrated visible apparent "
        "appreciated appears appear appearing looks look also overall again image film radiograph",
    )
)
_NEGATORS = frozenset(("no", "not", "without", "neither", "nor", "never", "denies", "free"))
_STRONG = frozenset(("and", "or", "but", "with", "without", "nor", "while", "whereas", "although", "however", ";"))
_PLACES = frozenset(("left", "right", "upper", "lower", "mid", "middle", "apical", "basilar", "basal", "bibasilar"))
_NEW_SCOPE = frozenset(
    [
        "there",
        "the",
        "a",
        "an",
        "mild",
        "moderate",
        "severe",
        "minimal",
        "small",
        "large",
        "trace",
        "left",
        "right",
        "bilateral",
        "is",
        "are",
        "stable",
    ]
)


@dataclass(frozen=True)
class ClauseClaims:
    """One clause: words with polarity (+ or -), and before each what joins it: "" none, "," , "&" , "?" any."""

    words: tuple[tuple[str, str], ...]
    joins: tuple[str, ...]
    turn: int
    """The number of words before the first copula; 0 without one."""
    optional: bool


def _lemma(word: str) -> str:
    word = {"ending": "end", "terminating": "terminate", "projecting": "project", "extending": "extend", "involving": "involve",
            "lying": "lie", "overlying": "overlie", "lies": "lie", "overlies": "overlie", "opacities": "opacity", "densities": "density", "masses": "mass", "apices": "apex", "metastases": "metastasis",
            "hila": "hilum", "pneumothoraces": "pneumothorax", "abnormalities": "abnormality"}.get(word, word)  # fmt: skip
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return word[:-2] if len(word) > 5 and word.endswith("ly") else word


def _names_the_chest(word: str) -> bool:
    return (word in BARE or f"{word}s" in BARE) and word not in _PLACES


def clause_claims(clause: str) -> ClauseClaims:
    """The claims of one clause that has no reference to an earlier exam any more."""
    text = clause.lower()
    unknown = NO_NEW.search(text) or REMOVED.search(text)
    text = re.sub(rf"\b{PARTLY_GONE} of\b", "change in", text)
    text = re.sub(rf"\b(?:has|have) not (?:\w+ ){{0,2}}{GONE}", "persists", text)
    gone = None if re.search(rf"\b{NEARLY}", text) else _GONE_AFTER.search(text)
    if gone:
        unknown = unknown or (gone if is_bare(text[: gone.start()]) else None)
        text = text[: gone.start()] + " ^ " + text[gone.end() :]
    text = re.sub(r"\bno longer\b", "no", re.sub(r"\b(?:complete |interval )*resolution of\b", "no", text))
    left = _VOCABULARY.sub(" ~ ", text)
    plain = _AMOUNT.sub("", left)
    changed = left != clause.lower()
    improved = re.search(r"\bimprove(?:d|ment)", text) is not None
    tokens = re.findall(r"\d+(?:\.\d+)?|[~^]|[a-z][a-z'/]*|[,;]", plain)
    words: list[tuple[str, str]] = []
    joins: list[str] = []
    join, joiner, negated, turn, free, moved = "", "", False, 0, False, False
    for number, token in enumerate(tokens):
        if token in ("is", "are", "was", "were", "measures", "~") and not turn:
            turn = len(words)
        if token in "~^":
            free, gone = True, gone if token == "~" else None
            moved = moved or token == "~"
        elif token in (",", *_STRONG):
            following = tokens[number + 1] if number + 1 < len(tokens) else ""
            ahead = tokens[number + 1 : number + 6]
            listed = token in (",", "and") and any(one in ("or", "nor") for one in ahead)
            if token in ("but", "with", ";", "while", "however", "although") or (
                token in (",", "and") and not listed and (following in _NEW_SCOPE or following.isdigit())
            ):
                negated = False
            if token in ("without", "nor"):
                negated = True
            join, joiner = ("&" if token in _STRONG else join or ","), token
        elif token in _NEGATORS:
            negated = True
        elif token not in _FUNCTION:
            if moved and joiner == "with" and words and all(_names_the_chest(word) for word, _ in words):
                words, joins, turn = [], [], 0  # "the lungs are better aerated with a small effusion"
            words.append((_lemma(token), "-" if negated or gone else "+"))
            joins.append(("?" if free else join) if words else "")
            join, joiner, free = "", "", False
    bare = changed and all(word in BARE or _lemma(word) in BARE or f"{word}s" in BARE for word, _ in words)
    grades = re.search(r"\b(?:mild|moderate|severe|small|large|trace|residual|persists?|remains?)\b", text)
    return ClauseClaims(tuple(words), tuple(joins), turn, bool(unknown or bare or (improved and not grades)))


def claims(text: str) -> list[ClauseClaims]:
    """The claims of a sentence, clause by clause."""
    plain = without_time(normalise(text)[0].strip(" ."))
    return [clause_claims(clause) for _, clause in split_clauses(plain)]


def keeps_claims(line: str, edit: str) -> bool:
    """True if an edit claims what the line claims about this image: no more, no less, of the same findings.

    What a line leaves open ("no new effusion", "the heart size is unchanged", "has been removed") may go but may not
    be settled.
    """
    if not re.search(r"[A-Za-z]{2}", edit):
        return False
    after = claims(edit)
    if not any(clause.words for clause in after) or NO_NEW.search(edit.lower()):
        return False
    before = claims(line)
    free = [number for number, clause in enumerate(before) if clause.optional]
    for size in range(min(len(free), 4) + 1):
        for gone in combinations(free, size):
            kept = [clause for number, clause in enumerate(before) if number not in gone]
            if _same_order(kept, after) or _same_parts(kept, after):
                unknown = {word for number in free if number not in gone for word in before[number].words}
                return not (unknown and _open(line, {word for word, _ in unknown}))
    return False


def _open(line: str, words: Collection[str]) -> bool:
    """True if the line leaves open whether one of `words` is there: "no new …", "… removed"."""
    return any(
        (NO_NEW.search(clause) or REMOVED.search(clause)) and any(word in clause for word in words)
        for _, said in split_clauses(without_time(line))
        for clause in [said.lower()]
    )


def _joined(clauses: list[ClauseClaims]) -> tuple[list[tuple[str, str]], list[str]]:
    words: list[tuple[str, str]] = []
    joins: list[str] = []
    for clause in clauses:
        if clause.words:
            words += clause.words
            joins += ["?", *clause.joins[1:]]
    return words, joins


def _same_order(before: list[ClauseClaims], after: list[ClauseClaims]) -> bool:
    (ours, our_joins), (theirs, their_joins) = _joined(before), _joined(after)
    if ours != theirs:
        return False
    return all(
        new == old or "?" in (new, old) or (old == "," and new == "")
        for old, new in zip(our_joins, their_joins, strict=True)
    )


def _same_parts(before: list[ClauseClaims], after: list[ClauseClaims]) -> bool:
    ours, theirs = ([part for clause in side for part in _parts(clause)] for side in (before, after))
    if len(ours) != len(theirs):
        return False
    rest = Counter(words for words, _ in theirs)
    turned = {words: at for words, at in theirs}
    for words, at in ours:
        options = [words, words[at:] + words[:at]]
        options += [other for other, turn in turned.items() if turn and other[turn:] + other[:turn] == words]
        fitting = next((option for option in options if rest[option]), None)
        if fitting is None:
            return False
        rest[fitting] -= 1
    return True


def _parts(clause: ClauseClaims) -> list[tuple[tuple[tuple[str, str], ...], int]]:
    """The words between conjunctions, and where the predicate of each begins (0: it has none)."""
    borders = [0, *(n for n, join in enumerate(clause.joins) if n and join == "&"), len(clause.words)]
    parts = []
    for start, end in pairwise(borders):
        if end > start:
            at = clause.turn - start
            parts.append((clause.words[start:end], at if 0 < at < end - start else 0))
    return parts
