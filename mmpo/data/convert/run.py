"""One conversion from start to end."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmpo.data.atomic import write_json
from mmpo.data.convert.flat import MDPO, MIA_DPO, SEVA
from mmpo.data.convert.format import Context, Format, Options
from mmpo.data.convert.hadpo import HADPO
from mmpo.data.convert.llamafactory import LLAMAFACTORY
from mmpo.data.convert.llava import LLAVA, POVID
from mmpo.data.convert.media import Media
from mmpo.data.convert.own import MMPO
from mmpo.data.convert.rows import Row, read_rows
from mmpo.data.convert.sentinel import SENTINEL
from mmpo.data.convert.swift import MS_SWIFT
from mmpo.data.convert.tables import RLAIF_V, RLHF_V
from mmpo.data.convert.trl import TRL
from mmpo.data.outside.failures import FAILURES
from mmpo.data.pair import PreferencePair
from mmpo.errors import Quarantined, UserError
from mmpo.progress import track

# In the order in which they are tried on a source whose format is not named.
FORMATS = {
    format.name: format
    for format in (
        MMPO, LLAMAFACTORY, LLAVA, POVID, MS_SWIFT, HADPO, SEVA, RLHF_V, RLAIF_V, MDPO, MIA_DPO, SENTINEL, TRL,
    )
}  # fmt: skip
ACCOUNT = "convert.json"
SNIFFED = 20  # rows looked at to tell a format


@dataclass(frozen=True)
class Converted:
    """What came of it. Every row that was read was either kept, giving one pair or more, or quarantined; `quarantined`
    counts them as `stage/reason`, `examples` names the first of each, and `rejects.jsonl` in the output all."""

    source: str
    source_format: str
    detected: bool
    out: str
    out_format: str
    media: str
    split: str
    rows: int
    kept: int
    pairs: int
    quarantined: dict[str, int]
    examples: dict[str, str]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    source_format: str | None = None,
    out_format: str = "mmpo",
    images: str | Path | None = None,
    media: str | None = None,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Converted:
    """Read preference data in one format and write it in another.

    `source` is a file or a folder; its format is told from its rows if it is not named. `images` is the folder that
    image paths start from, by default the source's own. `media` says how the output holds pictures (embed, copy or
    reference; see `Media`). The output folder appears when it is whole. A folder that holds anything is refused, unless
    it is an earlier conversion and `overwrite` is given. The same source gives the same bytes.
    """
    source, out = Path(source), Path(out)
    writer = _format(out_format, "write")
    _check_places(source, out, overwrite)
    root = Path(images) if images is not None else (source if source.is_dir() else source.parent)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images")
    mode = _media(writer, media)
    rows = read_rows(source, split)
    sniffed: list[Row] = []
    if source_format is None:
        sniffed = _some(rows)
        reader = _detected(sniffed, source)
    else:
        reader = _format(source_format, "read")
    context = Context(source, root, _options(reader, options or {}))
    recipe = {
        "converted_from": reader.name, "source": source.name, "split": split, "media": mode,
        "options": context.options.model_dump(mode="json"),
    }  # fmt: skip
    beside = out.parent / f".{out.name}.converting"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        assert writer.write is not None
        facts = {"split": split, "name": out.name, "recipe": recipe}
        sink = writer.write(beside, Media(root, beside, mode), facts)
        seen: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for row in track(chain(sniffed, rows), "converting"):
            try:
                sink.add(*_unique(_pairs(reader, row, context), seen))
            except Quarantined as error:
                sink.reject(row.place, error)
                examples.setdefault(f"{error.stage}/{error.reason}", f"{row.place}: {error.detail}")
        sink.counts.check(str(source))
        sink.close(f"{source.name}, converted from {reader.name}")
        counts = sink.counts
        result = Converted(
            source.name, reader.name, source_format is None, out.name, writer.name, mode, split,
            counts.sources, counts.kept, counts.pairs, dict(counts.reasons), examples,
        )  # fmt: skip
        write_json(beside / ACCOUNT, {"recipe": recipe, **asdict(result)})
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return replace(result, source=str(source), out=str(out))


def detect(source: str | Path, split: str = "train") -> str:
    """The name of a source's format, told from its first rows. UserError if none fits."""
    return _detected(_some(read_rows(source, split)), Path(source)).name


def _some(rows: Iterator[Row]) -> list[Row]:
    """The first rows, up to one that can tell a format; they are not lost on the way."""
    found: list[Row] = []
    for row in rows:
        found.append(row)
        if row.error is None or len(found) == SNIFFED:
            break
    return found


def _detected(rows: list[Row], source: Path) -> Format:
    data = next((row.data for row in rows if row.error is None), None)
    if data is None:
        raise UserError(f"{source}: no row to tell the format from", hint="name it with --from")
    for format in FORMATS.values():
        if format.fits is not None and format.fits(data):
            return format
    raise UserError(
        f"{source}: rows with the keys {', '.join(map(str, data))} are of no known format",
        hint=f"name it with --from: {', '.join(FORMATS)}",
    )


def _pairs(reader: Format, row: Row, context: Context) -> list[PreferencePair]:
    if row.error is not None:
        raise row.error
    assert reader.read is not None
    try:
        return list(reader.read(row.data, row, context))
    except FAILURES as error:  # a list where a map belongs, and so on
        raise Quarantined("convert", "malformed", f"{type(error).__name__}: {error}") from None


def _unique(pairs: list[PreferencePair], seen: Counter[str]) -> list[PreferencePair]:
    """An id that an earlier pair has gets a number: `a`, `a#2`, `a#3`."""
    unique = []
    for pair in pairs:
        name = pair.id
        while seen[name]:
            seen[pair.id] += 1
            name = f"{pair.id}#{seen[pair.id]}"
        seen[name] = 1 if name != pair.id else seen[name] + 1
        unique.append(pair if name == pair.id else replace(pair, id=name))
    return unique


def _format(name: str, use: str) -> Format:
    usable = [known for known, format in FORMATS.items() if getattr(format, use) is not None]
    if name not in usable:
        raise UserError(f"no format {name!r} to {use}", hint=f"one of {', '.join(usable)}")
    return FORMATS[name]


def _media(writer: Format, media: str | None) -> str:
    if media is not None and media not in writer.media:
        raise UserError(f"{writer.name} can't hold images by {media!r}", hint=f"--media {' or '.join(writer.media)}")
    return media or writer.media[0]


def _options(reader: Format, given: Mapping[str, Any]) -> Options:
    try:
        return reader.options.model_validate(dict(given))
    except ValidationError as error:
        known = ", ".join(reader.options.model_fields) or "none"
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        wrong = "no such option" if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"--set {name}: {wrong}", hint=f"options of {reader.name}: {known}") from None


def _check_places(source: Path, out: Path, overwrite: bool) -> None:
    here, there = source.resolve(), out.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UserError(f"{out}: the source lies in it, or it in the source", hint="convert into another folder")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file", hint="give a folder to write into")
    with suppress(StopIteration):
        next(out.iterdir())
        if not overwrite:
            raise UserError(f"{out}: the folder is not empty", hint="--overwrite replaces an earlier conversion")
        if not (out / ACCOUNT).is_file():
            raise UserError(f"{out}: holds something else than a conversion", hint="delete it yourself, if you mean it")
