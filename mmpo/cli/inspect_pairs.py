"""The view of `mmpo inspect` on a folder of pairs."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
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
    """Print what a folder of pairs holds, or draw single pairs of it."""
    if frames is not None or backend != "auto":
        raise UserError("--frames and --backend belong to videos", hint="mmpo inspect PAIRS --id ID --out DIR")
    if bool(ids) != (out is not None):
        raise UserError("--id and --out belong together", hint="mmpo inspect PAIRS --id ID --out DIR")
    shown = draw_pairs(folder, ids, out) if ids and out is not None else summary(folder)
    if as_json:
        echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    console.heading(str(folder))
    for row in shown["pairs"] if ids else [shown]:
        for name, value in row.items():
            console.line(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


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
