"""Effect of a finished `mmpo demo` run on the careless annotator's habits: wrong counts and places where the model
learnt them, and everywhere else.

    mmpo demo --out runs/demo-0
    python -m mmpo.demo.habits runs/demo-0 [RUN …]

The annotator doubles a single thing of `DOUBLED` and puts one of `CENTERED` in the middle. Every claim that the
annotations decide is in one row: those about such a thing in the row of its habit, all others of the kind in the row
below it. Of several runs, the last two columns hold all their claims.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpo.data.annotations.read import AnnotatedImage, read_annotations
from mmpo.data.records import read_records, text_of
from mmpo.demo.by_kind import BASE, TUNED, KindOutcome, KindShare, shares, table
from mmpo.demo.scene import SIDES
from mmpo.demo.things import CENTERED, DOUBLED
from mmpo.errors import UserError, in_one_line

COUNTS = (f"counts of single things that were doubled ({', '.join(DOUBLED)})", "other counts")
PLACES = (f"places of single things that were put in the middle ({', '.join(CENTERED)}), elsewhere", "other places")
FILES = {BASE: "claims_before.jsonl", TUNED: "claims_after.jsonl"}


def habits(run: Path) -> dict[str, dict[str, KindShare]]:
    """Wrong ones of the decided claims in each row of the table, `base` and `tuned`.

    Raises UserError where `run` is not a finished demo, or a claim is about a picture that its world does not have.
    """
    if not (folder := run / "eval" / "claims").is_dir():
        raise UserError(f"{folder}: no such folder", hint="RUN is the folder of a finished `mmpo demo`")
    images = {image.path: image for image in read_annotations(run / "world" / "test" / "annotations.jsonl")}
    return {state: shares(_wrong(folder / file, images), (*COUNTS, *PLACES)) for state, file in FILES.items()}


def _wrong(file: Path, images: dict[str, AnnotatedImage]) -> Iterator[KindOutcome]:
    """The row of every decided claim, and whether it is wrong."""
    for where, record in read_records(file):
        image = images.get(text_of(record, ("image_id",), where))
        if image is None:
            raise UserError(f"{where}: image {record['image_id']} is not in the world of this run")
        if not isinstance(record.get("claims"), list):
            raise UserError(f"{where}: no list of `claims`", hint="delete eval/ in the run and evaluate again")
        numbers = Counter(item.name for item in image.objects)
        lone = {item.name: item.attributes.get("side") for item in image.objects if numbers[item.name] == 1}
        for claim in record["claims"]:
            name, kind, right = claim["name"], claim["kind"], claim["right"]
            if right is not None and kind == "count":
                yield COUNTS[not (name in lone and name in DOUBLED)], not right
            elif right is not None and kind == "place":
                yield PLACES[not (name in CENTERED and lone.get(name, SIDES[1]) != SIDES[1])], not right


def columns(runs: Sequence[Path]) -> dict[str, dict[str, KindShare]]:
    """The columns of the table: two for each run, and two for all of them."""
    found = [habits(run) for run in runs]
    if len(found) == 1:
        return found[0]
    every = {
        state: {row: sum((one[state][row] for one in found), KindShare()) for row in found[0][state]} for state in FILES
    }
    named = [*zip(map(str, runs), found, strict=True), ("all", every)]
    return {f"{name}, {state}": rows for name, states in named for state, rows in states.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a finished demo")
    print(table(columns(list(dict.fromkeys(parser.parse_args().runs))), "wrong, % [95 %]"))


if __name__ == "__main__":
    in_one_line(main)
