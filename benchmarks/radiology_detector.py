"""How many reports a second the rule detector reads, on one core: with no sentence seen before, and with repeats.

python benchmarks/radiology_detector.py
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from mmpo.errors import in_one_line
from mmpo.radiology.detector import RuleDetector

SENTENCES = Path(__file__).parents[1] / "tests" / "radiology"
FLAGGED = 0.15
"""Share of sentences that refer to an earlier exam."""


def reports(count: int, lines: int, *, distinct: bool) -> list[str]:
    """Reports of the tests' sentences; `distinct` makes every sentence a new one by a number in it."""
    rng = random.Random(0)
    names = ("prior_sentences.jsonl", "prior_sentences_held_out.jsonl")
    rows = [json.loads(line) for name in names for line in (SENTENCES / name).read_text().splitlines()]
    pools = {label: [row["text"] for row in rows if row["label"] == label] for label in (True, False)}
    made = []
    for number in range(count):
        said = [rng.choice(pools[rng.random() < FLAGGED]) for _ in range(lines)]
        if distinct:
            said = [f"{text[:-1]} {number}x{place}." for place, text in enumerate(said)]
        made.append(" ".join(said))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=2000)
    parser.add_argument("--lines", type=int, default=7)
    arguments = parser.parse_args()
    for distinct in (True, False):
        texts = reports(arguments.reports, arguments.lines, distinct=distinct)
        detector = RuleDetector()
        began = time.process_time()
        flagged = sum(len(detector.report(text).flagged) for text in texts)
        seconds = time.process_time() - began
        kind = "no sentence twice" if distinct else "sentences repeat"
        print(
            f"{kind}: {len(texts) / seconds:,.0f} reports/s of CPU time, {flagged / len(texts):.2f} flagged lines each"
        )


if __name__ == "__main__":
    in_one_line(main)
