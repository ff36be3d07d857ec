"""The account of a dataset: what came in, what went out, what was turned away and why. The counts must add up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

import mmpo
from mmpo.data.reader import PAIRS, RESPONSES, count_rows, shard_paths
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import JsonLines, file_digest, read_json, read_jsonl, write_json, write_text

ABOUT = {
    PAIRS: (
        "pairs",
        "Multimodal preference pairs, written by mmpo {}. A row holds `images`, a `prompt`, a `chosen`\n"
        "and a `rejected` response as conversation messages. Open it with `datasets.load_dataset`.",
    ),
    RESPONSES: (
        "groups",
        "Groups of scored responses, written by mmpo {}. A row holds `images`, a `prompt` as conversation messages,\n"
        "and `responses`, each with `text` and `score`. Open it with `datasets.load_dataset`.",
    ),
}
"""What the rows of a format are called, and what a data set's page says of them."""


@dataclass
class Counts:
    """Sources in; each was kept (it gave one pair or more) or rejected, so `sources == kept + rejected`."""

    sources: int = 0
    kept: int = 0
    pairs: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """`stage/reason` -> how many sources were rejected for it, in the order of their first appearance."""

    def check(self, where: str) -> None:
        """UserError unless every source is accounted for."""
        if self.sources != self.kept + self.rejected:
            raise UserError(
                f"{where}: {self.sources} sources came in, but {self.kept} were kept and {self.rejected} rejected",
                hint="every source must end in PairWriter.add or PairWriter.reject, once",
            )
        explained = sum(self.reasons.values())
        if self.rejected != explained:
            raise UserError(f"{where}: {self.rejected} sources were rejected, {explained} of them with a reason")


class Rejects:
    """`rejects.jsonl`: one row `{id, stage, reason, detail}` for each source that could not be used. It only grows."""

    def __init__(self, path: str | Path) -> None:
        self._log = JsonLines(path)

    def add(self, id: str, error: Quarantined) -> None:
        self._log.append({"id": id, "stage": error.stage, "reason": error.reason, "detail": error.detail})

    @property
    def path(self) -> Path:
        return self._log.path

    def __len__(self) -> int:
        return self._log.rows

    def sync(self) -> None:
        self._log.sync()

    def truncate(self, rows: int) -> None:
        self._log.truncate(rows)

    def close(self) -> None:
        self._log.close()

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def count_reasons(path: str | Path) -> dict[str, int]:
    """`stage/reason` -> rows of a rejects file; nothing for no file."""
    if not Path(path).exists():
        return {}
    return dict(Counter(f"{row['stage']}/{row['reason']}" for row in read_jsonl(path)))


def rejects_path(folder: str | Path, split: str = "train") -> Path:
    """`rejects.jsonl` for the training split, `rejects.SPLIT.jsonl` beside it for any other."""
    return Path(folder) / ("rejects.jsonl" if split == "train" else f"rejects.{split}.jsonl")


def plain_recipe(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe as JSON has it; paths and the like become strings."""
    return json.loads(json.dumps(recipe or {}, default=str))


def recipe_hash(recipe: Mapping[str, Any] | None) -> str:
    """A short name for a recipe's content; the order of its keys does not matter."""
    text = json.dumps(plain_recipe(recipe), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_card(
    folder: str | Path,
    counts: Counts,
    recipe: Mapping[str, Any] | None = None,
    *,
    split: str = "train",
    title: str = "Preference pairs",
    notes: str = "",
    format: str = PAIRS,
) -> Path:
    """Write `card.json` and `README.md` for one split of a dataset, keeping what they say of its other splits.

    The counts are checked against the shards and the rejects file first; UserError if they don't agree. Nothing that
    changes from run to run (dates, machines) goes in, so the same build gives the same files.
    """
    folder = Path(folder)
    counts.check(str(folder))
    rows, reasons = count_rows(folder, split), count_reasons(rejects_path(folder, split))
    if rows != counts.pairs:
        raise UserError(f"{folder}: {counts.pairs} {ABOUT[format][0]} were counted, the {split} shards hold {rows}")
    if reasons != counts.reasons:
        raise UserError(f"{folder}: rejected were {counts.reasons}, the rejects file holds {reasons}")
    splits = read_card(folder, format)["splits"] if (folder / "card.json").exists() else {}
    splits = {name: entry for name, entry in splits.items() if shard_paths(folder, name)}
    splits[split] = {**asdict(counts), "recipe_hash": recipe_hash(recipe), "recipe": plain_recipe(recipe)}
    shards = [path for name in splits for path in shard_paths(folder, name)]
    files = {f"data/{path.name}": file_digest(path) for path in shards}
    card = {
        "format": format, "mmpo": mmpo.__version__, "title": title, "notes": notes, "splits": splits, "files": files,
    }  # fmt: skip
    write_text(folder / "README.md", _readme(card))
    return write_json(folder / "card.json", card)


def read_card(folder: str | Path, format: str = PAIRS) -> dict[str, Any]:
    """The card of a finished dataset. UserError if there is none or it is of another format."""
    path = Path(folder) / "card.json"
    if not path.exists():
        raise UserError(f"{folder}: no card.json", hint="the build did not finish; run it again and it goes on")
    card = read_json(path)
    if not isinstance(card, dict) or card.get("format") != format:
        raise UserError(f"{path}: not a card of the format {format}")
    return card


def _readme(card: Mapping[str, Any]) -> str:
    """A dataset page as the Hugging Face hub shows it; its header says which files are which split."""
    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in card["splits"]]
    header = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)
    lines = [f"---\n{header}---", f"# {card['title']}", ""]
    if card["notes"]:
        lines += [card["notes"], ""]
    rows, about = ABOUT[card["format"]]
    lines += [
        about.format(card["mmpo"]),
        "",
        f"| split | sources | kept | {rows} | rejected |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, entry in card["splits"].items():
        lines.append(f"| {name} | {entry['sources']} | {entry['kept']} | {entry['pairs']} | {entry['rejected']} |")
    for name, entry in card["splits"].items():
        if entry["reasons"]:
            lines += ["", f"Rejected from {name}:", "", "| stage/reason | sources |", "| --- | ---: |"]
            lines += [f"| {reason} | {count} |" for reason, count in entry["reasons"].items()]
    for name, entry in card["splits"].items():
        if entry["recipe"]:
            recipe = yaml.safe_dump(entry["recipe"], sort_keys=False, allow_unicode=True)
            lines += ["", f"Recipe of {name} (`{entry['recipe_hash']}`):", "", "```yaml", recipe.rstrip(), "```"]
    return "\n".join(lines) + "\n"
