"""How well the detector and the editor by rules do on labelled sentences and edits, with every error printed.

python benchmarks/radiology_sentences.py tests/radiology/prior_sentences_third.jsonl tests/radiology/prior_edits.jsonl

A row is {"text", "label"} (does it refer to an earlier exam?) or {"text", "accept"}: the edits that keep every finding,
drop every reference and read as English, "" being the dropped line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import RuleEditor


def score_sentences(rows: list[dict[str, Any]], detector: RuleDetector) -> str:
    """Precision and recall, after the sentences on which the detector errs."""
    hits = said = true = 0
    for row in rows:
        verdict = detector.sentence(row["text"])
        said, true, hits = said + verdict.flagged, true + row["label"], hits + (verdict.flagged and row["label"])
        if verdict.flagged != row["label"]:
            cues = f" {[cue.text for cue in verdict.cues]}" if verdict.flagged else ""
            print(f"  {'false alarm' if verdict.flagged else 'missed'}: {row['text']}{cues}")
    return f"{len(rows)} sentences, precision {hits / max(1, said):.3f}, recall {hits / max(1, true):.3f}"


def score_edits(rows: list[dict[str, Any]], editor: RuleEditor) -> str:
    """Edits that are among the accepted ones, after those that aren't."""
    good = 0
    for row in rows:
        edit = editor.line(row["text"])
        good += edit.edit in row["accept"]
        if edit.edit not in row["accept"]:
            print(f"  {row['text']} -> {edit.edit or '(dropped)'}")
    return f"{good} of {len(rows)} edits accepted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    detector = RuleDetector()
    for path in parser.parse_args().files:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        score = score_sentences(rows, detector) if "label" in rows[0] else score_edits(rows, RuleEditor(detector))
        print(f"{path.name}: {score}")


if __name__ == "__main__":
    main()
