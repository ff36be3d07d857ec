"""The folder of candidates: two Parquet tables, what they were made from, and what could not be used.

    FOLDER/data/candidates-00000.parquet …   a row for each response
    FOLDER/data/claims-00000.parquet …       a row for each class that was asked about, with every source's opinion
    FOLDER/rejects.jsonl                     photos without candidates, with stage and reason
    FOLDER/card.json, README.md              counts, cuts and settings; written last

Shards of one number hold the same pictures, `pictures_per_shard` of them, in the order of the photos: one is a unit of
work for whoever makes pairs of them. All files depend on their content alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

import mmpo
from mmpo.chat.settings import RECORDED
from mmpo.data.reader import open_shard, shard_path, shard_paths
from mmpo.data.shards import parquet_bytes
from mmpo.data_builders.candidates.records import Candidate, ClaimMention, JudgedPicture
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.errors import UserError
from mmpo.evidence.records import claim_row, opinion_of
from mmpo.files.atomic import file_digest, read_json, remove_leftovers, write_bytes, write_json, write_text
from mmpo.outside.failures import FAILURES

FORMAT = "mmpo-candidates/1"
CANDIDATES, CLAIMS = "candidates", "claims"
CARD = "card.json"

_OPINIONS = pa.list_(
    pa.struct(
        {
            "source": pa.string(), "verdict": pa.string(), "z": pa.float64(), "confidence": pa.float64(),
            "why": pa.string(),
        }
    )
)  # fmt: skip
_MENTIONS = pa.list_(
    pa.struct(
        {
            "prompt_number": pa.int32(), "sample": pa.int32(), "start": pa.int32(), "end": pa.int32(),
            "word": pa.string(),
        }
    )
)  # fmt: skip
CANDIDATE_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("image", pa.string()),
    ("image_sha256", pa.string()),
    ("dhash", pa.string()),
    ("cluster", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("prompt", pa.string()),
    ("prompt_number", pa.int32()),
    ("answer", pa.string()),
    ("sample", pa.int32()),
    ("text", pa.string()),
    ("truncated", pa.bool_()),
    ("tokens", pa.int32()),
    ("words", pa.int32()),
    ("logp", pa.float64()),
    ("logp_tokens", pa.int32()),
    ("logp_blind", pa.float64()),
    ("n_present", pa.int32()),
    ("n_absent", pa.int32()),
    ("n_uncertain", pa.int32()),
    ("m_present", pa.int32()),
    ("m_absent", pa.int32()),
    ("m_uncertain", pa.int32()),
    ("chair_i", pa.float64()),
    ("recall_pool", pa.float64()),
    ("kept", pa.bool_()),
    ("why_not", pa.string()),
)
CLAIM_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("image", pa.string()),
    ("name", pa.string()),
    ("verdict", pa.string()),
    ("confidence", pa.float64()),
    ("by", _OPINIONS),
    ("mentions", _MENTIONS),
)
_SCHEMAS = {CANDIDATES: pa.schema(CANDIDATE_COLUMNS), CLAIMS: pa.schema(CLAIM_COLUMNS)}


def candidate_rows(picture: JudgedPicture) -> Iterator[dict[str, Any]]:
    """A row for each candidate of a picture."""
    for one in picture.candidates:
        yield {
            "image": picture.image,
            "image_sha256": picture.key,
            "dhash": picture.dhash,
            "cluster": picture.cluster,
            "width": picture.width,
            "height": picture.height,
            **{name: getattr(one, name) for name in _PLAIN},
            **{f"n_{verdict}": len(getattr(one, verdict)) for verdict in ("present", "absent", "uncertain")},
            **{f"m_{verdict}": one.mentioned(verdict) for verdict in ("present", "absent", "uncertain")},
            "words": one.words,
            "kept": one.kept,
        }


_PLAIN = (
    "prompt", "prompt_number", "answer", "sample", "text", "truncated", "tokens", "logp", "logp_tokens", "logp_blind",
    "chair_i", "recall_pool", "why_not",
)  # fmt: skip
"""Columns that are fields of a `Candidate`."""


def claim_rows(picture: JudgedPicture) -> Iterator[dict[str, Any]]:
    """A row for each class that was asked about a picture; probes have no mentions."""
    mentions: dict[str, list[dict[str, Any]]] = {}
    for one in picture.candidates:
        for m in one.mentions:
            place = {"prompt_number": one.prompt_number, "sample": one.sample}
            mentions.setdefault(m.name, []).append({**place, "start": m.start, "end": m.end, "word": m.word})
    for name, found in picture.opinions.items():
        yield {"image": picture.image, **claim_row(found), "mentions": mentions.get(name, [])}


def write_tables(folder: Path, pictures: Iterable[JudgedPicture], per_shard: int) -> int:
    """Write the shards of both tables, and remove those of an earlier, longer writing. Returns their number; there is
    at least one, maybe empty."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder, deep=True)
    waiting, number = iter(pictures), 0
    while (part := list(islice(waiting, per_shard))) or not number:
        for table, rows in ((CANDIDATES, candidate_rows), (CLAIMS, claim_rows)):
            found = pa.Table.from_pylist([row for picture in part for row in rows(picture)], schema=_SCHEMAS[table])
            write_bytes(shard_path(folder, table, number), parquet_bytes(found))
        number += 1
    for table in (CANDIDATES, CLAIMS):
        for path in shard_paths(folder, table)[number:]:
            path.unlink()
    return number


def write_candidates_card(folder: Path, facts: Mapping[str, Any], readme: str) -> Path:
    """Write README.md and, last, card.json: `facts`, with the digests of the shards."""
    files = {path.name: file_digest(path) for table in (CANDIDATES, CLAIMS) for path in shard_paths(folder, table)}
    write_text(folder / "README.md", readme)
    return write_json(folder / CARD, {"format": FORMAT, "mmpo": mmpo.__version__, **facts, "files": files})


def is_candidates(folder: Path) -> bool:
    """Whether a folder holds candidates, finished or not."""
    return bool(shard_paths(folder, CANDIDATES)) and bool(shard_paths(folder, CLAIMS))


class CandidateTables:
    """A finished folder of candidates, read a shard at a time. UserError for one that is not whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / CARD).is_file():
            if (inner := folder / "candidates" / CARD).is_file() or (
                inner := folder / "build" / "candidates" / CARD
            ).is_file():
                raise UserError(f"{folder}: no candidates", hint=f"did you mean {inner.parent}?")
            told = "the build did not finish; run it again and it goes on" if is_candidates(folder) else None
            raise UserError(f"{folder}: no candidates{' that are whole' if told else ''}", hint=told)
        self.card: dict[str, Any] = read_json(folder / CARD)
        if not isinstance(self.card, dict) or self.card.get("format") != FORMAT:
            raise UserError(f"{folder}: not a folder of candidates", hint="`builder: candidates` makes one")

    @cached_property
    def settings(self) -> CandidateSettings:
        """The settings of the build, without those that decide nothing, as addresses of servers."""
        return CandidateSettings.model_validate(self.card["settings"], context=RECORDED)

    @property
    def pictures_per_shard(self) -> int:
        """The pictures of each shard but the last."""
        return int(self.card["pictures_per_shard"])

    @cached_property
    def images(self) -> list[str]:
        """The paths of all pictures with candidates, in order."""
        found: list[str] = []
        for number in range(len(self)):
            column = self._read(CANDIDATES, number, ["image"])
            found += dict.fromkeys(row["image"] for row in column)
        return found

    def __len__(self) -> int:
        """The number of shards."""
        return len(shard_paths(self.folder, CANDIDATES))

    def pictures(self, number: int) -> list[JudgedPicture]:
        """The pictures of a shard."""
        claims: dict[str, list[Mapping[str, Any]]] = {}
        for row in self._read(CLAIMS, number):
            claims.setdefault(row["image"], []).append(row)
        rows = self._read(CANDIDATES, number)
        return [
            _picture(list(group), claims.get(image, ())) for image, group in groupby(rows, lambda row: row["image"])
        ]

    def __iter__(self) -> Iterator[JudgedPicture]:
        for number in range(len(self)):
            yield from self.pictures(number)

    def _read(self, table: str, number: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        path = shard_path(self.folder, table, number)
        if not path.is_file() or self.card["files"].get(path.name) != file_digest(path):
            raise UserError(
                f"{path}: {'damaged or changed' if path.is_file() else 'missing'}: it is not what card.json says",
                hint=f"delete {self.folder / CARD} and run the build again: only the tables are written anew",
            )
        try:
            with open_shard(path) as file:
                rows: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
        except FAILURES as error:
            raise UserError(f"{path}: can't be read ({' '.join(str(error).split())[:120]})") from None
        return rows


def _picture(rows: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]]) -> JudgedPicture:
    opinions = {row["name"]: opinion_of(row) for row in claims}
    mentions: dict[tuple[int, int], list[ClaimMention]] = {}
    for row in claims:
        for m in row["mentions"]:
            found = mentions.setdefault((m["prompt_number"], m["sample"]), [])
            found.append(ClaimMention(row["name"], m["start"], m["end"], m["word"]))
    candidates = []
    for row in rows:
        own = sorted(mentions.get((row["prompt_number"], row["sample"]), ()), key=lambda m: m.start)
        verdicts = {m.name: opinions[m.name].verdict for m in own}
        candidates.append(Candidate(mentions=tuple(own), verdicts=verdicts, **{name: row[name] for name in _PLAIN}))
    first = rows[0]
    return JudgedPicture(
        first["image"],
        first["image_sha256"],
        first["dhash"],
        first["cluster"],
        first["width"],
        first["height"],
        tuple(candidates),
        opinions,
    )
