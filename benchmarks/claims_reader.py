"""How well the reader of claims reads: precision and recall by kind against sentences labelled by hand.

    python benchmarks/claims_reader.py tests/text/claims_twin.jsonl
    python benchmarks/claims_reader.py tests/text/claims_opera_labels.jsonl --published FOLDER --errors open

Labels are `object:dog`, `count:dog:2`, `count:kite:>=4`, `count:sheep:several`, `color:cow:brown`, `place:chair:left`,
`relation:car:left of:horse`. What stands under `optional` is read by some and not by others: it counts neither way. A
row has its own `text`, or names a published one: a file of OPERA's repository (Huang et al. 2024,
https://github.com/shikiw/OPERA; in FOLDER/shikiw_OPERA), an image id, the sentence's number and the beginning of its
SHA-256. A sentence is read within its whole caption. `part` is `open` (errors may be looked at when the reader is
mended) or `kept` (never).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpo.errors import in_one_line
from mmpo.statistics import wilson
from mmpo.text.claims import split_sentences
from mmpo.text.scene_claims import KINDS, Claim, Number, read_claims
from mmpo.text.vocabulary import coco

REPOSITORY = "shikiw_OPERA"


@dataclass(frozen=True)
class Sentence:
    """`text[start:end]` is a labelled sentence."""

    text: str
    start: int
    end: int
    part: str
    claims: frozenset[str]
    optional: frozenset[str]

    @property
    def own(self) -> str:
        return self.text[self.start : self.end]


@dataclass
class Score:
    """Claims read, of these right; claims labelled, of these found."""

    read: int = 0
    right: int = 0
    labelled: int = 0
    found: int = 0
    errors: list[str] = field(default_factory=list)


def labelled(path: Path, published: Path | None) -> Iterator[Sentence]:
    """The labelled sentences that are there. Rows about a file that is not are skipped (its model's captions are not
    on this machine); raises LookupError where a sentence is not the one that was labelled.
    """
    captions: dict[str, dict[int, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        labels = frozenset(row["claims"]), frozenset(row["optional"])
        if "text" in row:
            yield Sentence(row["text"], 0, len(row["text"]), "own", *labels)
            continue
        file = None if published is None else published / REPOSITORY / row["file"]
        if file is None or not file.is_file():
            continue
        if row["file"] not in captions:
            records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            captions[row["file"]] = {record["image_id"]: record["caption"] for record in records}
        text = captions[row["file"]][row["image_id"]]
        yield _located(text, row, *labels)


def _located(text: str, row: Mapping[str, Any], claims: frozenset[str], optional: frozenset[str]) -> Sentence:
    for piece in split_sentences(text):
        if hashlib.sha256(piece.text.encode()).hexdigest().startswith(row["sha256"]):
            return Sentence(text, piece.start, piece.start + len(piece.text), row["part"], claims, optional)
    raise LookupError(f"{row['file']}: image {row['image_id']} has no sentence {row['sha256']}")


def as_label(claim: Claim) -> str | None:
    """A claim in the form of the labels; None for a count that says no more than that the object is there."""
    if claim.kind == "object":
        return f"object:{claim.name}"
    if claim.kind == "count":
        assert isinstance(claim.value, Number)
        least, most = claim.value
        if (least, most) == (1, None):
            return None
        return f"count:{claim.name}:{least}" if most == least else f"count:{claim.name}:>={least}"
    value = {"middle": "center"}.get(str(claim.value), str(claim.value))
    if claim.kind == "relation":
        words = {"top": "above", "bottom": "below"}.get(value, f"{value} of")
        return f"relation:{claim.name}:{words}:{claim.other.name if claim.other else ''}"
    return f"{claim.kind}:{claim.name}:{value}"


def score(sentences: Iterable[Sentence]) -> dict[str, dict[str, Score]]:
    """The scores by part and kind."""
    scores: dict[str, dict[str, Score]] = defaultdict(lambda: {kind: Score() for kind in KINDS})
    for sentence in sentences:
        claims = read_claims(sentence.text, coco())
        inside = [claim for claim in claims if sentence.start <= claim.start < sentence.end]
        read = {label for claim in inside if (label := as_label(claim)) is not None}
        for kind in KINDS:
            one = scores[sentence.part][kind]
            said = {label for label in read if label.startswith(kind)}
            true = {label for label in sentence.claims if label.startswith(kind)}
            counted = {label for label in said if not any(agree(label, other) for other in sentence.optional)}
            right = {label for label in counted if any(agree(label, other) for other in true)}
            found = {label for label in true if any(agree(other, label) for other in said)}
            one.read, one.right = one.read + len(counted), one.right + len(right)
            one.labelled, one.found = one.labelled + len(true), one.found + len(found)
            one.errors += [f"not there: {label}   <- {sentence.own}" for label in sorted(counted - right)]
            one.errors += [f"missed: {label}   <- {sentence.own}" for label in sorted(true - found)]
    return scores


def agree(read: str, label: str) -> bool:
    """Whether a claim that was read follows from a labelled one: `at least two` also from a larger or an exact number,
    `top` or `right` from `top right`. `several` are at least two or three.
    """
    kind, name, *values = label.split(":")
    if kind == "place":
        return any(read == f"place:{name}:{side}" for side in (values[0], *values[0].split()))
    if kind == "count" and read.startswith(f"count:{name}:>="):
        number = values[0].removeprefix(">=")
        return int(read.rpartition(">=")[2]) <= (3 if number == "several" else int(number))
    return read == label


def table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Precision and recall by part and kind, with 95% intervals (Wilson's)."""
    lines = ["part   kind      read  precision           labelled  recall"]
    for part, kinds in sorted(scores.items()):
        for kind, one in kinds.items():
            if one.read or one.labelled:
                precision, recall = _share(one.right, one.read), _share(one.found, one.labelled)
                lines.append(f"{part:6} {kind:9} {one.read:4}  {precision:18}  {one.labelled:8}  {recall}")
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    if not whole:
        return "–"
    interval = wilson(part, whole)
    return f"{part / whole:.3f} [{interval.low:.2f}, {interval.high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="+", type=Path)
    parser.add_argument("--published", type=Path, help="folder of published files, with OPERA's in shikiw_OPERA")
    parser.add_argument("--errors", nargs="*", default=(), help="print the errors of these parts (own, open)")
    arguments = parser.parse_args()
    sentences = [sentence for path in arguments.labels for sentence in labelled(path, arguments.published)]
    if not sentences:
        parser.error("no labelled sentence was found; --published names the folder of published captions")
    scores = score(sentences)
    for part in arguments.errors:
        for kind, one in scores[part].items():
            for error in one.errors:
                print(f"{kind}: {error}")
    print(f"{len(sentences)} sentences\n{table(scores)}")


if __name__ == "__main__":
    in_one_line(main)
