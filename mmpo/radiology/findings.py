"""Fourteen CheXpert-style findings read from a report by rules, and how well two reports agree on them.

The labels are CheXpert's (Irvin et al. 2019, arXiv 1901.07031), the rules are ours: a list of wordings for each finding
(`findings.yaml`), negation and uncertainty by words before and after within a clause. It is not the CheXpert labeller,
not CheXbert and not RadGraph: it knows no synonyms beyond its list, no anatomy, no severity, and its numbers compare
with no published table. It is for before and after on the same reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import yaml

from mmpo.radiology.detector import normalise
from mmpo.radiology.lines import split_lines

Status = Literal["positive", "negative", "uncertain"]
UncertainAs = Literal["positive", "negative", "ignore"]
UNCERTAIN_AS: tuple[UncertainAs, ...] = get_args(UncertainAs)
NO_FINDING = "No Finding"
DEVICES = "Support Devices"
TOP5 = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")

_NEGATION = re.compile(
    r"\b(?:no|not|without|absent|absence of|free of|negative for|nor|neither|never|clear of|resolution of|resolved|"
    r"resolving of|removal of|rather than|rules? out|excludes?|lack of|denies)\b"
)
_NEGATED_AFTER = re.compile(
    r"^[^,;]{0,60}?\b(?:(?:is|are|was|were|has been|have been) (?:not|absent|excluded|ruled out|removed|no longer)|"
    r"not (?:seen|identified|evident|visualized|present|appreciated)|"
    r"(?:has|have) (?:(?:now|since|completely|fully) ){0,2}(?:resolved|cleared|been removed)|"
    r"(?:is|are) (?:now |completely )?resolved|no longer|cannot be seen)\b"
)
_NO_NEGATION = re.compile(
    r"\b(?:cannot|not) (?:be )?(?:exclude\w*|ruled)|(?:without|no) (?:new|change|interval|significant (?:\w+ )?change)"
)
_NOT_EXCLUDED = re.compile(r"^[^,;]{0,40}(?:cannot|not) be (?:excluded|ruled out)")
_NEARLY = re.compile(r"\b(?:nearly|almost|partial\w*|near|incomplete\w*|largely|mostly|not (?:yet|completely|fully))\b")
_UNCERTAIN = re.compile(
    r"\b(?:may|might|could|possib\w+|questionable|question of|suspicious|suspected|concern\w*|versus|vs|cannot|can't|"
    r"can not|equivocal|perhaps|differential|not excluded|rule out|evaluate for|assess for|worrisome|suggest\w*|"
    r"suspicion|potential\w*|\?)\b"
)
_CLAUSE = re.compile(
    r"[;:]|\.(?!\d)|,? (?:but|however|although|though|while|whereas|except|otherwise|yet)\b|"
    r", (?:and )?(?:with|there|the|a|an|mild|moderate|severe|small|large|minimal|left|right|bilateral|stable|"
    r"unchanged|new|persistent|which|bibasilar) "
    r"(?!(?:[\w-]+ ){0,3}(?:or|nor)\b)|\bwith (?!(?:no|out)\b)| and (?:there|the|is|are|a|mild|moderate|small|large) "
)


@cache
def _patterns() -> dict[str, tuple[re.Pattern[str], re.Pattern[str] | None]]:
    table = yaml.safe_load(Path(__file__).with_name("findings.yaml").read_text(encoding="utf-8"))

    def joined(items: list[str]) -> re.Pattern[str] | None:
        return re.compile(r"(?<!\w)(?:" + "|".join(items) + r")(?!\w)") if items else None

    out = {}
    for name, entry in table.items():
        mention = joined(entry["mention"])
        assert mention is not None
        out[name] = (mention, joined(entry["normal"]))
    return out


def names() -> tuple[str, ...]:
    """The fourteen labels in CheXpert's order."""
    return (*_patterns(), NO_FINDING)


def sentence_findings(sentence: str) -> dict[str, Status]:
    """Every finding that the sentence names, with its status; a positive mention wins over an uncertain, that over a
    negative one.
    """
    plain = normalise(sentence)[0]
    found: dict[str, Status] = {}
    for name, (mention, normal) in _patterns().items():
        if normal is not None and normal.search(plain):
            found[name] = _stronger(found.get(name), "negative")
        for match in mention.finditer(plain):
            found[name] = _stronger(found.get(name), _status(plain, match.start(), match.end()))
    return found


def _status(plain: str, start: int, end: int) -> Status:
    borders = [m for m in _CLAUSE.finditer(plain) if m.end() <= start]
    before = plain[borders[-1].end() : start] if borders else plain[:start]
    following = next((m.start() for m in _CLAUSE.finditer(plain, end)), len(plain))
    after = plain[end:following]
    if _NEGATED_AFTER.search(after) and not _NEARLY.search(after):
        return "negative"
    if _NEGATION.search(before) and not _NO_NEGATION.search(before):
        return "negative"
    if _NOT_EXCLUDED.search(after) or _UNCERTAIN.search(f"{before} | {after}"):
        return "uncertain"
    if re.search(r"\bno (?:new|interval)\b", before):
        return "negative"
    return "positive"


_RANK = {"negative": 0, "uncertain": 1, "positive": 2}


def _stronger(old: Status | None, new: Status) -> Status:
    return new if old is None or _RANK[new] > _RANK[old] else old


def report_findings(report: str) -> dict[str, Status]:
    """The findings of a whole report. `No Finding` is positive where nothing but devices is positive or uncertain."""
    found: dict[str, Status] = {}
    for line in split_lines(report):
        for name, status in sentence_findings(line.text).items():
            found[name] = _stronger(found.get(name), status)
    abnormal = any(status != "negative" for name, status in found.items() if name != DEVICES)
    return found if abnormal else {**found, NO_FINDING: "positive"}


@dataclass(frozen=True)
class FindingScores:
    """Micro scores over all labels and their counts; `by_label` holds (tp, fp, fn); None where undefined."""

    precision: float | None
    recall: float | None
    f1: float | None
    macro_f1: float | None
    top5_f1: float | None
    by_label: dict[str, tuple[int, int, int]]


def compare_findings(
    answers: Sequence[str], references: Sequence[str], uncertain_as: UncertainAs = "positive"
) -> FindingScores:
    """Agreement of reports with their references, label by label: positive (and uncertain, as `uncertain_as` says)
    against the rest. `ignore` leaves out a label of a report where either side is uncertain.
    """
    table = {name: [0, 0, 0] for name in names()}
    for answer, reference in zip(answers, references, strict=True):
        said, true = report_findings(answer), report_findings(reference)
        for name, counts in table.items():
            if uncertain_as == "ignore" and "uncertain" in (said.get(name), true.get(name)):
                continue
            has, should = _present(said, name, uncertain_as), _present(true, name, uncertain_as)
            counts[0] += has and should
            counts[1] += has and not should
            counts[2] += should and not has
    by_label = {name: (tp, fp, fn) for name, (tp, fp, fn) in table.items()}
    return _scores(by_label)


def _present(found: Mapping[str, Status], name: str, uncertain_as: UncertainAs) -> bool:
    status = found.get(name)
    return status == "positive" or (status == "uncertain" and uncertain_as == "positive")


def _scores(by_label: dict[str, tuple[int, int, int]]) -> FindingScores:
    def micro(labels: Sequence[str]) -> tuple[int, int, int]:
        tp, fp, fn = (sum(by_label[name][i] for name in labels) for i in range(3))
        return tp, fp, fn

    tp, fp, fn = micro(list(by_label))
    each = [f1 for counts in by_label.values() if (f1 := _f1(*counts)) is not None]
    return FindingScores(
        precision=tp / (tp + fp) if tp + fp else None,
        recall=tp / (tp + fn) if tp + fn else None,
        f1=_f1(tp, fp, fn),
        macro_f1=sum(each) / len(each) if each else None,
        top5_f1=_f1(*micro(TOP5)),
        by_label=by_label,
    )


def _f1(tp: int, fp: int, fn: int) -> float | None:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
