"""Pairs and test descriptions of a demo run, drawn at random, beside their pictures: to be read, not to be counted.

    mmpo demo --out runs/measure/demo-0
    python benchmarks/demo_sheet.py runs/measure/demo-0          # writes docs/demo.md and docs/demo/*.png

Wrong claims of a description are in bold, as the evaluator `claims` found them; of a pair, the words in which its sides
differ. The rows follow from `--seed`, and nothing is left out because of what it shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import read_pairs
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_bytes, write_text

_HEAD = """# The demo, to look at

Rows drawn at random from a run of `mmpo demo` (`python benchmarks/demo_sheet.py {run}`, seed {seed}): read them beside
their pictures.

"""


def said(turns: Any) -> str:
    """The text of a prompt, or of one of its answers."""
    return " ".join(part["text"] for turn in turns for part in turn["content"] if part["type"] == "text")


def differing(one: str, other: str) -> tuple[str, str]:
    """Both texts with the words in bold in which they differ."""
    words = one.split(), other.split()
    marked: tuple[list[str], list[str]] = ([], [])
    for change, a, b, c, d in SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, (begin, end) in enumerate(((a, b), (c, d))):
            run = " ".join(words[side][begin:end])
            if run:
                marked[side].append(run if change == "equal" else f"**{run}**")
    return " ".join(marked[0]), " ".join(marked[1])


def judged(row: dict[str, Any]) -> str:
    """A description with its wrong claims in bold; spans that touch or overlap are one."""
    text: str = row["caption"]
    spans: list[list[int]] = []
    for claim in sorted(row["claims"], key=lambda claim: claim["start"]):
        if claim["right"] is False:
            if spans and claim["start"] <= spans[-1][1] + 1:
                spans[-1][1] = max(spans[-1][1], claim["end"])
            else:
                spans.append([claim["start"], claim["end"]])
    for start, end in reversed(spans):
        text = f"{text[:start]}**{text[start:end]}**{text[end:]}"
    return text


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)])


def pair_rows(pairs: list[PreferencePair], pictures: Path) -> list[list[str]]:
    rows = []
    for number, pair in enumerate(pairs):
        name = f"pair_{number}.png"
        image = pair.images[0]
        write_bytes(pictures / name, image if isinstance(image, bytes) else Path(str(image)).read_bytes())
        chosen, rejected = differing(said(pair.chosen), said(pair.rejected))
        rows.append([f"![]({pictures.name}/{name})", said(pair.prompt), chosen, rejected])
    return rows


def description_rows(run: Path, count: int, rng: np.random.Generator, pictures: Path) -> list[list[str]]:
    before, after = (
        {row["image_id"]: row for row in map(json.loads, (run / "eval" / "claims" / file).read_text().splitlines())}
        for file in ("claims_before.jsonl", "claims_after.jsonl")
    )
    rows = []
    for number, image in enumerate(rng.permutation(sorted(before))[:count]):
        name = f"description_{number}.png"
        write_bytes(pictures / name, (run / "world" / "test" / image).read_bytes())
        rows.append([f"![]({pictures.name}/{name})", judged(before[image]), judged(after[image])])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("docs/demo.md"))
    parser.add_argument("--rows", type=int, default=10, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    pairs = list(read_pairs(given.run / "build" / "pairs"))
    chosen = [pairs[int(k)] for k in rng.permutation(len(pairs))[: given.rows]]
    pictures = given.out.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    parts = [
        _HEAD.format(run=given.run, seed=given.seed),
        f"## {len(chosen)} of {len(pairs)} pairs\n\nIn bold: where the sides differ.\n\n",
        table(("picture", "prompt", "chosen", "rejected"), pair_rows(chosen, pictures)),
        f"\n\n## {given.rows} test pictures, described before and after\n\nIn bold: what is wrong.\n\n",
        table(("picture", "before", "after"), description_rows(given.run, given.rows, rng, pictures)),
    ]
    print(write_text(given.out, "".join(parts) + "\n"))


if __name__ == "__main__":
    in_one_line(main)
