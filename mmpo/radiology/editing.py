"""Takes references to earlier exams out of a report and keeps the findings that stand in the image.

A line is kept (`none`), rewritten (`partial`: "unchanged small effusion" becomes "small effusion") or dropped (`all`:
nothing of it can be told from this image alone). A rewrite counts only if the detector is silent on it, its findings,
negations, numbers and sides are those of the line, and at least two words of content are left; else the line is
dropped. Nothing is ever added or made stronger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.findings import sentence_findings
from mmpo.radiology.lexicon import Lexicon
from mmpo.radiology.lines import Line, split_lines

Label = Literal["none", "partial", "all"]
PASSES = 4


@dataclass(frozen=True)
class LineEdit:
    """What becomes of a line: `edit` is its text afterwards, empty where the whole line goes."""

    label: Label
    edit: str


@dataclass(frozen=True)
class Edited:
    """A report without references to earlier exams, and what happened to each line."""

    text: str
    lines: tuple[tuple[Line, LineEdit], ...]

    @property
    def changed(self) -> bool:
        return any(edit.label != "none" for _, edit in self.lines)


class Annotator(Protocol):
    """Labels and edits the lines of a report."""

    identity: str

    def annotate(self, lines: Sequence[str]) -> list[LineEdit]:
        """One edit for each line. Raises Quarantined where the report can't be used."""


def edit_report(report: str, annotator: Annotator) -> Edited:
    """The report with every line edited; headers that lose all their text go too."""
    lines = split_lines(report)
    edits = annotator.annotate([line.text for line in lines])
    pieces: list[str] = []
    at = 0
    for line, edit in zip(lines, edits, strict=True):
        between = report[at : line.start]
        at = line.end
        if edit.label == "all":
            # The gap before a dropped line goes with it, unless it holds the larger break.
            pieces.append("\n" if "\n" in between and pieces and not pieces[-1].endswith("\n") else "")
            continue
        if pieces and not between and edit.label == "partial":
            between = " "
        pieces += [between, line.text if edit.label == "none" else edit.edit]
    text = "".join(pieces) if any(edit.label != "none" for edit in edits) else report
    if text is not report:
        text = _tidy_report(text)
    return Edited(text, tuple(zip(lines, edits, strict=True)))


_EMPTY_HEADER = re.compile(r"(?m)^[A-Z][A-Z /&()-]{2,38}:[ \t]*\n?(?=\s*(?:[A-Z][A-Z /&()-]{2,38}:|\Z))")


def _tidy_report(text: str) -> str:
    text = _EMPTY_HEADER.sub("", text)
    text = re.sub(r"[ \t]+\n", "\n", re.sub(r"(?<=\S)[ \t]{2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class RuleEditor:
    """The annotator by rules: the detector says where, a table of rewrites says how."""

    identity = "rules"

    def __init__(self, detector: RuleDetector | None = None) -> None:
        self.detector = detector or RuleDetector()

    def annotate(self, lines: Sequence[str]) -> list[LineEdit]:
        return [self.line(text) for text in lines]

    def line(self, text: str) -> LineEdit:
        """Edit one line."""
        if not self.detector.sentence(text).flagged:
            return LineEdit("none", text)
        header, body = _split_header(text)
        if header.lower().startswith(("comparison", "technique and comparison")):
            return LineEdit("all", "")
        edit = self._rewritten(body)
        if edit is None:
            return LineEdit("all", header.strip()) if header and not header[0].isdigit() else LineEdit("all", "")
        return LineEdit("partial", header + edit)

    def _rewritten(self, body: str) -> str | None:
        text = " ".join(body.split())
        for _ in range(PASSES):
            before = text
            for rewrite in self._rewrites:
                result = rewrite(text)
                if result is None:
                    return None
                text = result
            if text == before or not self.detector.sentence(finish(text)).flagged:
                break
        text = finish(text)
        verdict_ok = not self.detector.sentence(text).flagged
        return text if verdict_ok and keeps_content(body, text) else None

    @cached_property
    def _rewrites(self) -> list[Callable[[str], str | None]]:
        return build_rewrites(self.detector.lexicon)


def _split_header(text: str) -> tuple[str, str]:
    match = re.match(r"(?:\d{1,2}[.)]\s+|[-*•]\s+|[A-Z][A-Za-z /&()-]{1,38}:\s*){1,2}", text)
    return (match[0], text[match.end() :]) if match and match.end() < len(text) else ("", text)


_STOP = frozenset(
    "a an the is are was were there and of in with no at to on or has have been be by for from this that which it its"
    " seen noted present again overall".split()
)
_SIDES = re.compile(r"\b(?:left|right|bilateral|bibasilar|both)\b", re.IGNORECASE)
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_NEGATIONS = re.compile(r"\b(?:no|not|without|neither|nor|never)\b", re.IGNORECASE)
_GONE = re.compile(r"\b(?:resolv\w+|clear(?:ed|ing)|no longer|disappear\w+|chang\w+|unchang\w+|new)\b", re.IGNORECASE)


def keeps_content(line: str, edit: str) -> bool:
    """Whether an edit says what the line said about this image: findings, negations, numbers and sides."""
    words = [word.lower() for word in re.findall(r"[A-Za-z]+", edit)]
    if sum(word not in _STOP for word in words) < 1 or len(words) < 2:
        return False
    for pattern in (_SIDES, _NUMBERS):
        if not {m.lower() for m in pattern.findall(edit)} <= {m.lower() for m in pattern.findall(line)}:
            return False
    if not _GONE.search(line) and len(_NEGATIONS.findall(edit)) != len(_NEGATIONS.findall(line)):
        return False
    before, after = sentence_findings(line), sentence_findings(edit)
    return all(before.get(name) == status for name, status in after.items()) and all(
        name in after for name, status in before.items() if status != "negative"
    )


def finish(text: str) -> str:
    """A sentence as it is written: one space between words, none before marks, a capital, one full stop."""
    text = re.sub(r"\s+", " ", text).strip(" ,;")
    text = re.sub(r"\s+([,.;:)])", r"\1", re.sub(r"\(\s+", "(", text))
    text = re.sub(r"\(\s*\)", "", text)
    text = re.sub(r"([,;])(?:\s*[,;.])+", lambda m: "." if m[0].rstrip().endswith(".") else m[1], text)
    text = re.sub(r"[\s,;]*\b(?:and|but|with|as|which (?:is|are)|or)?[\s,;]*([.!?])[.!?\s]*$", r"\1", text).strip()
    text = re.sub(r"^(?:and|but|however|although|while|also|overall|otherwise)\b[,\s]*", "", text, flags=re.IGNORECASE)
    text = re.sub(r"[\s,;]+(?:and|but|with|as|or)$", "", text)
    if not text.strip(" .!?"):
        return ""
    text = re.sub(r"\b([Aa])n? (?=([a-zA-Z]+))", _article, text)
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."


def _article(match: re.Match[str]) -> str:
    word = match[2].lower()
    vowel = word[0] in "aeiou" and not word.startswith(("uni", "eu", "use", "usu", "one"))
    if len(word) > 1 and word in ("ap", "ett", "icd", "ng", "et", "mri"):
        vowel = True
    return match[1] + ("n " if vowel else " ")


_DEGREE = (
    r"(?:(?:slight(?:ly)?|mild(?:ly)?|minimal(?:ly)?|moderate(?:ly)?|marked(?:ly)?|significant(?:ly)?|interval(?:ly)?|"
    r"overall|relatively|grossly|essentially|largely|somewhat|now|further|gradual(?:ly)?|substantial(?:ly)?|"
    r"unremarkably|otherwise|still|since|probabl[ey]|perhaps|also|clearly|known|fairly|not significantly|"
    r"not substantially|only) ){0,3}"
)
_CHANGE_WORD = (
    r"(?:unchanged|stable|unaltered|similar|the same|static|increas(?:ed|ing)|decreas(?:ed|ing)|improv(?:ed|ing)|"
    r"worse(?:ned|ning)?|progress(?:ed|ing|ive)|persist(?:ent|ing)|resolving|larger|smaller|bigger|better|diminished|"
    r"(?:more|less) (?:prominent|conspicuous|extensive|dense|confluent|pronounced|apparent|severe)|new|not changed)"
)
_REFERENCE = (
    r"(?:(?:as |when |is |are )?compar(?:ed|ison) (?:to|with|made)|in comparison (?:to|with)|relative to|since|from|than|"
    r"as (?:on|in|of|was)|(?:as )?(?:seen|noted|described|identified|demonstrated|visualized|shown|reported) on)"
)


def build_rewrites(lexicon: Lexicon) -> list[Callable[[str], str | None]]:
    """The table of rewrites over one sentence. Each returns the new text, or None where nothing of it can be kept."""
    when = r"(?:\w+ ){0,3}?(?:{PRIORADJ}|{EXAM}|{DATE}|before|previously|then)\b(?:'s)?(?: (?:{EXAM}|of|from|on|dated|at|the|in|chest|{DATE}|radiograph\w*|available|same day))*"
    present = (
        r"\b(?:opacit\w+|opacification\w*|effusions?|edema|atelectasis|consolidations?|pneumothora\w+|pneumonias?|cardiomegaly|"
        r"infiltrates?|nodules?|mass(?:es)?|lesions?|congestion|fractures?|granulomas?|scarring|thickening|plaques?|emphysema|"
        r"adenopathy|lymphadenopathy|hernia|collapse|enlargement|elevation|blunting|fibrosis|disease|pneumomediastinum|"
        r"calcifications?|clips|wires|hematoma|air|fluid|deformit\w+|engorgement|widening|tortuosity|deviation|shift|bronchiectasis|process)\b"
    )
    device = r"\b(?:{DEVICE}|clips|wires|tracheostomy|hardware)\b"

    def compiled(pattern: str) -> re.Pattern[str]:
        for name, words in (("{WHEN}", when), ("{PRESENT}", present), ("{OBJECT}", rf"(?:{present}|{device})")):
            pattern = pattern.replace(name, words)
        for name in ("EXAM", "DATE", "MONTH", "NUMBER", "PRIORADJ", "DEVICE", "PLACED"):
            for _ in range(3):
                pattern = pattern.replace("{" + name + "}", lexicon.classes[name])
        for _ in range(3):
            for name in ("MONTH", "NUMBER"):
                pattern = pattern.replace("{" + name + "}", lexicon.classes[name])
        return re.compile(pattern, re.IGNORECASE)

    def sub(pattern: str, replacement: str) -> Callable[[str], str | None]:
        regex = compiled(pattern)
        return lambda text: regex.sub(replacement, text)

    def drop(pattern: str) -> Callable[[str], str | None]:
        regex = compiled(pattern)
        return lambda text: None if regex.search(text) else text

    def be(pattern: str, template: str) -> Callable[[str], str | None]:
        """Fill `template` with {x} (first group) and the fitting form of "to be"."""
        regex = compiled(pattern)

        def apply(text: str) -> str | None:
            match = regex.fullmatch(text.rstrip(". "))
            if match is None:
                return text
            groups = match.groupdict(default="")
            subject = _AMOUNT.sub("", groups["x"].strip())
            subject = re.sub(r"^(?:the |any )", "", subject, flags=re.IGNORECASE) if template.startswith("No ") else subject
            if template.startswith("No ") and subject[1:2].islower():
                subject = subject[0].lower() + subject[1:]
            return " ".join(template.format(x=subject, be=_be(subject), tail=groups.get("tail", "").strip()).split())

        return apply

    lead = r"^(?:again,|once again,|(?:as |when )?compar(?:ed|ing) (?:to|with)|in comparison (?:to|with)|comparison is made (?:to|with)|relative to|since|in the (?:interval|interim)\b|as (?:seen|noted|described|demonstrated|before)\b|{WHEN} (?:dated )?)"
    return [
        sub(lead + r"[^,]{0,140}, ?", ""),
        sub(r"^again,? (?=there)", ""),
        # numbers of before
        sub(r",? ?\(?(?:previously|formerly|prior|compared (?:to|with)|was|versus|earlier)(?: \w+){0,2} \d[\d. x]* ?(?:cm|mm)?(?: (?:on|in) {WHEN})?\)?", ""),
        sub(r",? (?:following|after|since|post) (?:the |a )?(?:[\w-]+ ){0,3}(?:removal|insertion|placement|drainage|thoracentesis|diuresis|extubation|intubation|bronchoscopy)(?=[,.;]|$)", ""),
        drop(r"\b(?:lower|higher|better|wider|narrower) than (?:on |in |at )?(?:the )?{WHEN}"),
        # resolved
        be(r"no longer (?:seen|visible|present|identified|evident) (?:is|are) (?P<x>.*{PRESENT}.*)", "No {x}"),
        be(r"(?P<x>(?!.*\b(?:but|and)\b).*{PRESENT}[^,]*?),? (?:(?:has|have) (?:now |since |completely |fully |interval(?:ly)? )*(?:resolved|cleared|disappeared)|(?:is|are) no longer (?:seen|visible|present|identified|evident|visualized|apparent|appreciated)|(?:is|are) (?:now )?resolved)(?: (?:since|from|on|after) .*)?", "No {x}"),
        # nothing can be told
        drop(r"^(?:(?:there|lungs?) (?:is|are|has been|have been) )?(?:no|little|without|minimal)(?: \w+){0,3} (?:change|alteration|difference)s?\b(?! (?:of position))(?=[^,]*$)"),
        drop(r"\bno (?:\w+ )?new\b|\bwithout new\b|\bnothing new\b|no (?:evidence of |definite )?(?:interval|recurrent|residual|increas\w+|worsening)"),
        drop(r"\b(?:{DEVICE})s?\b[^,;]*\b(?:has|have|had) (?:\w+ )?been (?:\w+ )?(?:removed|withdrawn$|taken out|discontinued|pulled$)|removal of"),
        # trailing references
        sub(r",? ?(?:but |and |which (?:is|are|has|have) |that (?:is|are) )?(?:now )?" + _DEGREE + _CHANGE_WORD + r"?(?: in (?:appearance|size|position|extent|severity|degree|number))?,? ?" + _REFERENCE + r" (?:(?:the|a|an|that|those|prior) )?(?:on |of |in )?{WHEN}(?=[,.;]|$)", ""),
        sub(r",? ?(?:as|than|from|like|similar to|since|to) (?:before|previously|prior|earlier|yesterday)(?: (?:seen|noted|described))?(?=[,.; ]|$)", ""),
        sub(r",? ?(?:with|without|with no)(?: \w+){0,3} (?:interval )?(?:change|progression|improvement|worsening)s?(?: (?:in|since|from|compared) [^,]*)?(?=[,.;]|$)", ""),
        sub(r", (?:which (?:is|are|has|have) )?(?:but |and )?" + _DEGREE + _CHANGE_WORD + r"(?: (?:to|or) " + _DEGREE + _CHANGE_WORD + r")?(?: (?:in (?:appearance|size|position|extent)|since [^,]*|from [^,]*|compared [^,]*))?(?=[,.;]|$)", ""),
        drop(r"\b(?:has|have|had|appears?|looks?)[ .]*$"),
        be(r"(?P<x>(?!there).*{PRESENT}[^,]*?) (?:is|are|was|were)", "{x} {be} present"),
        drop(r"\b(?:is|are|was|were)[ .]*$"),
        # again
        be(r"(?:once )?again (?:seen|noted|demonstrated|identified|visualized|present|evident|redemonstrated) (?:is|are) (?P<x>.*)", "{x} {be} seen"),
        be(r"(?:re-?demonstrated|re-?identified) (?:is|are) (?P<x>.*)", "{x} {be} seen"),
        be(r"(?:there is |there has been )?(?:re-?demonstration|re-?identification) of (?P<x>.*)", "{x} {be} seen"),
        sub(r"\b(?:re-?demonstrated|re-?identified|re-?visuali[sz]ed)\b(?=[,.;]| (?:in|at|on|over|with|along)|$)", "seen"),
        sub(r"\b(?:re-?demonstrated|re-?identified|re-?visuali[sz]ed) ", ""),
        sub(r"\b(?:once )?again,? ", ""),
        sub(r",? ?\b(?:once )?again(?=[,.;]|$)", ""),
        # devices
        be(r"(?:there (?:has|have) been |there is |status post )?(?:interval |new |interim ){0,2}(?:placement|insertion|introduction) of (?P<x>(?:a |an |the )?.*{OBJECT}.*)", "{x} {be} present"),
        sub(r"\b(?:has|have) (?:\w+ )?been (?:\w+ )?{PLACED}(?: (?:slightly|further|by [\d. ]+ ?cm))? and (?:is|are) (?:now )?", "is "),
        sub(r"\b(?:has|have) (?:\w+ )?been (?:\w+ )?{PLACED}(?: (?:slightly|further|by [\d. ]+ ?cm))? and (?:now )?(?=\w+s\b)", ""),
        be(r"(?P<x>.*{DEVICE}) (?:has|have) (?:\w+ )?been (?:\w+ )?(?:placed|inserted|introduced|added)(?P<tail>.*)", "{x} {be} present {tail}"),
        # course
        be(r"(?:there (?:has been|is|are) )?" + _DEGREE + r"(?:increased?|increasing|worsening|worsened|progression|progress|re-?accumulation|development|decreased?|reduction|growth|redistribution)(?: in| of)(?: the)?(?: size| extent| severity)?(?: of)?(?: the| a| an)? (?P<x>.*{PRESENT}.*)", "{x} {be} present"),
        be(r"(?P<x>.*{PRESENT}[^,]*?) (?:has|have) (?:\w+ )?(?:increased|worsened|progressed|developed|enlarged|grown|decreased|diminished|re-?accumulated|become (?:more|less) \w+|partially (?:cleared|resolved))(?: in (?:size|extent|severity|number))?(?P<tail>(?: (?:at|in|on) (?:the )?(?:left|right|both|lung)[^,]*)?)(?:,? (?:since|from|compared|following) .*)?", "{x} {be} present {tail}"),
        be(r"(?P<x>(?!there).*{PRESENT}[^,]*?) (?:is|are|appears?|remains?) " + _DEGREE + r"(?:increased|decreased|larger|smaller|bigger|worse|(?:more|less) \w+|progressing|worsening|increasing|decreasing|resolving|improving|improved|new)(?: in (?:size|extent))?", "{x} {be} present"),
        # a state that goes on
        sub(r"\b(?:has |have )?remain(?:s|ed)? (?=(?:unchanged|stable|similar))", "is "),
        be(r"(?P<x>(?!there).*(?:{OBJECT})[^,]*?) (?:is|are|appears?|has been|have been) " + _DEGREE + r"(?:in )?(?:unchanged|stable|unaltered|similar|static)(?: in)?(?: (?:position|appearance|size|extent|configuration|alignment|positioning|number|placement|severity))?(?: (?:and|to|or) " + _DEGREE + _CHANGE_WORD + r")?", "{x} {be} present"),
        drop(r"^[^,]*\b(?:is|are|appears?|have|has) " + _DEGREE + r"(?:in )?(?:unchanged|stable|unaltered|similar|static|not changed|changed)\b(?! and)[^,]*$"),
        sub(r"(?:,? and| but) " + _DEGREE + r"(?:unchanged|stable|unaltered)(?: in \w+)?(?=[,.;]|$)", ""),
        sub(r"\b(?:is|are) " + _DEGREE + r"(?:unchanged|stable|unaltered)(?: in \w+)? and ", "is "),
        sub(r"\bremains (?:to be )?(?=\w)", "is "),
        sub(r"\bremained (?=\w)", "was "),
        sub(r"\bremain (?=\w)", "are "),
        sub(r"\bcontinues to be ", "is "),
        sub(r"\bcontinue to be ", "are "),
        sub(r"\bthere continues? to be ", "there is "),
        be(r"(?P<x>.*?) persists?(?P<tail>(?: (?:at|in|on|within|over|along|with) .*)?)", "{x} {be} present {tail}"),
        # attributes
        sub(r"\b(?:previously|formerly) (?:seen|noted|described|identified|demonstrated|visualized|present|questioned|reported|placed|known) ", ""),
        sub(r"\b" + _DEGREE + r"(?:unchanged|stable|persistent|persisting|recurrent|residual|ongoing|continued|resolving|evolving|new|newly (?:apparent|developed|seen|placed|noted)|newly|increasing|decreasing|enlarging|worsening|worsened|progressive|interval) (?=(?:and )?[\w-]+)", ""),
        sub(r"\b(?:increased|decreased|diminished) (?=(?:[\w-]+ ){0,3}{PRESENT})", ""),
        sub(r"\bthere (?:is|are) now\b", "there is"),
        sub(r"\b(?:is|are) now (?=\w)", "is "),
        sub(r",? ?\bnow\b", ""),
        sub(r"\bin (?:an? )?(?:unchanged|stable|similar) (?:position|location|alignment)(?=[,.;]|$)", "in place"),
        sub(r",? ?\b(?:in the interval|in the interim|in the meantime|intervally)\b", ""),
    ]  # fmt: skip


_AMOUNT = re.compile(r"^(?:the )?(?:degree|extent|severity|size|amount|appearance) of (?:the )?", re.IGNORECASE)
_PLURAL = re.compile(r"(?:s|ices|ae|oci)$")


def _be(subject: str) -> str:
    """"is" or "are" for a noun phrase, by the head before its first preposition."""
    head = re.split(r" (?:in|at|of|with|over|on|within|along|overlying|from|projecting|terminating|involving|and the) ", subject)[0]
    if re.search(r"\b(?:and|both|two|three|multiple|several|bilateral \w+s)\b", head, re.IGNORECASE):
        return "are"
    word = head.split()[-1].lower().strip(",.") if head.split() else ""
    singular = word.endswith(("ss", "is", "us", "thorax", "ous"))
    return "are" if _PLURAL.search(word) and not singular else "is"
