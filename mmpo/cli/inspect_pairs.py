"""The view of `mmpo inspect` on a folder of pairs."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mmpo.cli import console
from mmpo.cli.visible import echo
from mmpo.errors import UserError


def inspect_pairs(
    folder: Path,
    *,
    as_json: bool,
    frames: str | None,
    out: Path | None,
    backend: str,
    ids: Sequence[str] | None = None,
) -> None:
    """Print what a folder of pairs, or of groups of responses, holds, or draw single pairs of it."""
    from mmpo.data.reader import holds_groups

    if frames is not None or backend != "auto":
        raise UserError("--frames and --backend belong to videos", hint="mmpo inspect PAIRS --id ID --out DIR")
    grouped = holds_groups(folder)
    if grouped and (ids or out is not None):
        raise UserError(
            f"{folder}: holds groups of responses; --id and --out draw pairs", hint=f"mmpo inspect {folder}"
        )
    if bool(ids) != (out is not None):
        raise UserError("--id and --out belong together", hint="mmpo inspect PAIRS --id ID --out DIR")
    shown = draw_pairs(folder, ids, out) if ids and out is not None else (groups if grouped else summary)(folder)
    if as_json:
        echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    console.heading(str(folder))
    for row in shown["pairs"] if ids else [shown]:
        for name, value in row.items():
            console.line(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def show_random(folder: Path, count: int) -> None:
    """Print pairs drawn by the lowest SHA-256 of their ids (the same ones each time), with the words that differ
    marked: `[+ +]` only in chosen, `[- -]` only in rejected, `[! !]` made up."""
    from rich.text import Text

    from mmpo.data.shards import read_pairs
    from mmpo.report.cards import ShownPicture, pair_card

    if not any((folder / "data").glob("*.parquet")):
        raise UserError(f"{folder}: --random shows pairs", hint="give a folder of pairs, as …/build/pairs")

    def rank(id: str) -> bytes:
        return hashlib.sha256(id.encode(errors="surrogatepass")).digest()

    drawn = heapq.nsmallest(count, read_pairs(folder), key=lambda pair: rank(pair.id))
    for pair in drawn:
        card = pair_card(pair, lambda source, alt: ShownPicture("", 4, 3, alt))
        console.heading(f"{card.id} ({card.kind}): {card.prompt}")
        for side, pieces, sign in (("chosen", card.chosen, "+"), ("rejected", card.rejected, "-")):
            told = Text(f"  {side}: ")
            for piece in pieces:
                if piece.note or piece.changed:
                    mark, style = ("!", "bold red") if piece.note else (sign, "green" if sign == "+" else "red")
                    told.append(f"[{mark}{piece.text}{mark}]", style=style)
                else:
                    told.append(piece.text)
            console.out.print(told, soft_wrap=True)
        if card.scores:
            console.line(", ".join(f"{name} {value:.4g}" for name, value in card.scores))
        for reason in card.reasons:
            console.line(f"reason: {reason}")


def summary(folder: Path) -> dict[str, Any]:
    """Counts and mean scores of the pairs, and the first ids."""
    from mmpo.data.shards import read_pairs

    kinds: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    held: Counter[str] = Counter()
    first: list[str] = []
    for pair in read_pairs(folder):
        kinds[str(pair.provenance.get("layout") or pair.provenance.get("kind") or "pair")] += 1
        for name, value in (pair.scores or {}).items():
            sums[name] += value  # type: ignore[assignment]
            held[name] += 1
        if len(first) < 5:
            first.append(pair.id)
    return {
        "pairs": sum(kinds.values()),
        **dict(kinds),
        **{f"mean {name}": sums[name] / count for name, count in held.items()},
        "first ids": ", ".join(first),
    }


def groups(folder: Path) -> dict[str, Any]:
    """Counts of groups, responses and scores, and the first group's responses from the best to the worst."""
    from mmpo.data.reader import read_groups

    sizes: Counter[int] = Counter()
    scores: list[float] = []
    unscored = videos = 0
    first: dict[str, str] = {}
    names: list[str] = []
    for group in read_groups(folder):
        sizes[len(group.responses)] += 1
        scores += [one.score for one in group.responses if one.score is not None]
        unscored += group.unscored
        videos += bool(group.videos)
        names += [group.id][: 5 - len(names)]
        if not first:
            ordered = sorted(group.responses, key=lambda one: -math.inf if one.score is None else one.score)
            for place, one in enumerate(ordered[:-6:-1], 1):
                score = "no score" if one.score is None else f"{one.score:.4g}"
                first[f"{group.id}, response {place}"] = f"{score}: {' '.join(one.text.split())[:100]}"
    responses = sum(size * count for size, count in sizes.items())
    return {
        "groups": sum(sizes.values()),
        "responses": responses,
        "responses a group": ", ".join(f"{size} in {count:,}" for size, count in sorted(sizes.items())),
        **({"about videos": videos} if videos else {}),
        **({"scores": f"{min(scores):.4g} to {max(scores):.4g}", "mean score": fmean(scores)} if scores else {}),
        **({"without score": unscored} if unscored else {}),
        "first ids": ", ".join(names),
        **first,
        "learnt by": "train.groups.data (nca, infonca; kto, una_mse, uft with rows: responses)",
    }


def draw_pairs(folder: Path, ids: Sequence[str], out: Path) -> dict[str, Any]:
    """Write `ID.png` and `ID.html` of each pair into `out`. Raises UserError for an id that isn't there."""
    from mmpo.data.shards import read_pairs
    from mmpo.data_builders.mia.draw import draw, page
    from mmpo.files.atomic import write_bytes, write_text

    wanted = dict.fromkeys(ids)
    taken: set[str] = set()
    rows: list[dict[str, Any]] = []
    for pair in read_pairs(folder):
        if pair.id not in wanted:
            continue
        del wanted[pair.id]
        png = draw(pair, root=folder)
        name = re.sub(r"[^\w.-]+", "_", pair.id).lstrip(".") or "pair"
        if name.casefold() in taken:  # other ids may come to the same name, and file systems may not tell A from a
            name = f"{name}-{hashlib.sha256(pair.id.encode(errors='surrogatepass')).hexdigest()[:8]}"
        taken.add(name.casefold())
        files = [write_bytes(out / f"{name}.png", png), write_text(out / f"{name}.html", page(pair, png))]
        rows.append({"id": pair.id, "files": ", ".join(map(str, files)), **(pair.scores or {})})
        if not wanted:
            break
    if wanted:
        raise UserError(f"{folder}: no pair has the id {next(iter(wanted))!r}", hint="mmpo inspect PAIRS names a few")
    return {"pairs": rows}
