"""The other way round: references to earlier exams put into a report that has none.

For data that anyone may use: public reports on which the detector is silent become the chosen side, the same reports
with one to four references the rejected one. What is put in can be taken out again word for word.
"""

from __future__ import annotations

import random
import re

from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.lines import split_lines

_TRAILING = (
    ", unchanged from the prior study",
    ", unchanged compared to the previous radiograph",
    ", stable since the prior exam",
    ", similar to the prior examination",
    ", not significantly changed from the previous study",
)
_LEADING = (
    "Compared to the previous radiograph, ",
    "In comparison with the prior study, ",
    "Since the prior exam, ",
    "As seen on the prior radiograph, ",
)
_ALONE = (
    "No significant interval change.",
    "There is little change from the prior study.",
    "Overall appearance is unchanged from the previous exam.",
)
MOST = 4


def inject(report: str, rng: random.Random, detector: RuleDetector | None = None) -> str | None:
    """The report, reflowed, with 1 to 4 references; None where none of its sentences could take one."""
    detector = detector or RuleDetector()
    lines = [" ".join(line.text.split()) for line in split_lines(report)]
    places = [i for i, line in enumerate(lines) if line.endswith(".") and len(line.split()) >= 3 and line[0].isalpha()]
    rng.shuffle(places)
    wanted = rng.randint(1, MOST)
    done = 0
    for place in places[:wanted]:
        changed = _with_reference(lines[place], rng)
        if detector.flags(changed):
            lines[place] = changed
            done += 1
    if done < wanted or not done:
        lines.append(rng.choice(_ALONE))
    text = " ".join(lines)
    return text if detector.flags(text) else None


def _with_reference(line: str, rng: random.Random) -> str:
    again = re.match(r"There (?:is|are) ", line)
    kind = rng.choice(["again", "trailing", "leading"] if again else ["trailing", "leading"])
    if kind == "again" and again:
        return f"{line[: again.end()]}again {line[again.end() :]}"
    if kind == "trailing":
        return f"{line[:-1]}{rng.choice(_TRAILING)}."
    first = line if line[:2].isupper() else line[0].lower() + line[1:]
    return rng.choice(_LEADING) + first
