"""One conversion from start to end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmpo.data.convert.completions import BPO, VLFEEDBACK
from mmpo.data.convert.flat import MDPO, MIA_DPO, SEVA
from mmpo.data.convert.format import Converts, Format, Options, SourceContext
from mmpo.data.convert.guard import check_media, has_media
from mmpo.data.convert.hadpo import HADPO
from mmpo.data.convert.hound import LLAVA_HOUND
from mmpo.data.convert.llamafactory import LLAMAFACTORY
from mmpo.data.convert.llava import LLAVA, POVID
from mmpo.data.convert.media import Media
from mmpo.data.convert.opadpo import OPA_DPO
from mmpo.data.convert.own import MMPO
from mmpo.data.convert.responses import RESPONSES
from mmpo.data.convert.rows import Row
from mmpo.data.convert.sentinel import SENTINEL
from mmpo.data.convert.sources import RowSource, has_rejected, is_question
from mmpo.data.convert.swift import MS_SWIFT
from mmpo.data.convert.tables import RLAIF_V, RLHF_V
from mmpo.data.convert.trl import TRL
from mmpo.data.responses import ResponseGroup
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import replacing_folder, write_json
from mmpo.files.paths import links_allowed
from mmpo.locks import announce, locked
from mmpo.outside.failures import FAILURES
from mmpo.progress import track
from mmpo.registry import Registry

_OWN = (
    MMPO, LLAMAFACTORY, LLAVA, POVID, MS_SWIFT, VLFEEDBACK, BPO, OPA_DPO, HADPO, SEVA, RLHF_V, RLAIF_V, MDPO,
    MIA_DPO, SENTINEL, LLAVA_HOUND, TRL, RESPONSES,
)  # fmt: skip


def _check_new(name: str, format: Format) -> None:
    if not isinstance(format, Format) or format.name != name:
        raise UserError(f"{name}: no format of this name", hint="FORMATS.add(format.name, format)")


FORMATS: Registry[Format] = Registry("formats", {format.name: format for format in _OWN}, check=_check_new)
"""In the order in which they are tried on a source whose format is not named; those of plug-ins come last."""
ACCOUNT = "convert.json"
# What readers say first of a row that has no rejected answer either, which is the better word.
OTHERWISE = ("missing_key", "not_json", "bad_type", "no_image", "image_count")
NO_REJECTED_HINT = "preference data has a better and a worse answer in every row; mmpo build makes pairs of images"


@dataclass(frozen=True)
class Converted:
    """The result of a conversion. Every row that was read was either kept, giving one pair or more, or quarantined;
    `quarantined` counts those as `stage/reason`, `examples` names the first of each, and the output's `rejects.jsonl`
    lists all. `without_media` pairs hold no picture and no video; `skipped` names the files not read, and why."""

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
    without_media: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


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
    ignore: Sequence[str] = (),
    overwrite: bool = False,
    allow_links: bool = False,
) -> Converted:
    """Read preference data in one format and write it in another. The same source gives the same bytes.

    Args:
        source: a file, or a folder of files.
        out: the folder to write. It appears when it is whole; one that holds anything is refused, unless it is an
            earlier conversion and `overwrite` is given.
        source_format: found from the rows where None.
        out_format: mmpo, trl, llamafactory or ms-swift; or responses, groups of scored responses.
        images: the folder in which image paths start; by default that of the source.
        media: how the output holds pictures (embed, copy or reference; see `Media`); by default the first that the
            written format can.
        split: the split to read.
        options: options of the format that is read.
        ignore: keys whose pictures, videos and sounds are not the pairs'; a row with any other that its format does
            not read is quarantined.
        overwrite: replace an earlier conversion in `out`.
        allow_links: follow links out of the folder of images.
    """
    source, out = Path(source), Path(out)
    writer = format_named(out_format, "write")
    check_places(source, out, overwrite)
    root = Path(images) if images is not None else (source if source.is_dir() else source.parent)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images")
    mode = media_mode(writer, media)
    with locked(out, beside=True) as before, links_allowed(allow_links):
        announce(out, before)
        check_places(source, out, overwrite)
        return _convert(source, out, root, source_format, writer, mode, split, options or {}, overwrite, ignore)


def _convert(
    source: Path,
    out: Path,
    root: Path,
    source_format: str | None,
    writer: Format,
    mode: str,
    split: str,
    options: Mapping[str, Any],
    overwrite: bool,
    ignore: Sequence[str],
) -> Converted:
    rows = RowSource(source, split)
    reader = detected(rows) if source_format is None else format_named(source_format, "read")
    context = SourceContext(source, root, options_of(reader, options))
    recipe = {
        "converted_from": reader.name, "source": source.name, "split": split, "media": mode,
        "options": context.options.model_dump(mode="json"), **({"ignore": list(ignore)} if ignore else {}),
    }  # fmt: skip
    with replacing_folder(out, overwrite=overwrite) as beside:
        assert writer.write is not None
        facts = {"split": split, "name": out.name, "recipe": recipe}
        sink = writer.write(beside, Media(root, beside, mode), facts)
        seen: Counter[str] = Counter()
        examples: dict[str, str] = {}
        without = 0
        for row in track(rows, "converting"):
            try:
                pairs = _unique(pairs_of(reader, row, context, ignore), seen)
                if writer is not RESPONSES and any(isinstance(one, ResponseGroup) for one in pairs):
                    raise UserError(
                        f"{source}: groups of responses can't be written as {writer.name}", hint="--to responses"
                    )
                sink.add(*pairs)
                without += sum(1 for pair in pairs if not has_media(pair))
            except Quarantined as error:
                sink.reject(row.place, error)
                examples.setdefault(f"{error.stage}/{error.reason}", f"{row.place}: {error.detail}")
        sink.counts.check(str(source))
        counts = sink.counts
        sink.close(f"{source.name}, converted from {reader.name}", _notes(without, counts.pairs, rows.skipped))
        result = Converted(
            source.name, reader.name, source_format is None, out.name, writer.name, mode, split,
            counts.sources, counts.kept, counts.pairs, dict(counts.reasons), examples,
            without, dict(rows.skipped),
        )  # fmt: skip
        write_json(beside / ACCOUNT, {"recipe": recipe, **asdict(result)})
    return replace(result, source=str(source), out=str(out))


def detect(source: str | Path, split: str = "train") -> str:
    """The name of a source's format, found from its first rows. UserError if none fits."""
    return detected(RowSource(Path(source), split)).name


def detected(rows: RowSource) -> Format:
    data = next((row.data for row in rows.first if row.error is None), None)
    if data is None:
        if rows.skipped:
            name, why = next(iter(rows.skipped.items()))
            more = f", and {len(rows.skipped) - 1} more files" if len(rows.skipped) > 1 else ""
            raise UserError(f"{rows.path}: no preference data: {name}: {why}{more}", hint=NO_REJECTED_HINT)
        raise UserError(f"{rows.path}: no row to tell the format from", hint="name it with --from")
    if rows.registered:
        return LLAMAFACTORY
    for format in FORMATS.values():
        if format.fits is not None and format.fits(data):
            return format
    keys = ", ".join(map(str, data))
    if is_question(data) and not has_rejected(data):
        raise UserError(f"{rows.path}: no rejected answer: rows with the keys {keys}", hint=NO_REJECTED_HINT)
    raise UserError(
        f"{rows.path}: rows with the keys {keys} are of no known format",
        hint=f"name it with --from: {', '.join(FORMATS)}",
    )


def _notes(without: int, pairs: int, skipped: Mapping[str, str]) -> str:
    lines = [f"{without} of {pairs} pairs hold no picture and no video."] if without else []
    lines += [f"Not read: {name} ({why})." for name, why in skipped.items()]
    return "\n".join(lines)


def pairs_of(reader: Format, row: Row, context: SourceContext, ignore: Sequence[str]) -> list[Converts]:
    if row.error is not None:
        raise row.error
    assert reader.read is not None
    try:
        pairs = list(reader.read(row.data, row, context))
        check_media(row.data, pairs, ignore)
        return pairs
    except Quarantined as error:
        # LLaMA-Factory's columns have any names, and its reader says itself what is missing; groups reject nothing.
        if (
            error.reason in OTHERWISE
            and reader not in (LLAMAFACTORY, RESPONSES)
            and is_question(row.data)
            and not has_rejected(row.data)
        ):
            raise Quarantined("convert", "no_rejected", f"no rejected answer; {error.detail}") from None
        raise
    except FAILURES as error:  # a list where a map belongs, and so on
        raise Quarantined("convert", "malformed", f"{type(error).__name__}: {error}") from None


def _unique(pairs: list[Converts], seen: Counter[str]) -> list[Converts]:
    """An id that an earlier pair has gets a number: `a`, `a#2`, `a#3`."""
    unique: list[Converts] = []
    for pair in pairs:
        name = pair.id
        while seen[name]:
            seen[pair.id] += 1
            name = f"{pair.id}#{seen[pair.id]}"
        seen[name] = 1 if name != pair.id else seen[name] + 1
        unique.append(pair if name == pair.id else replace(pair, id=name))
    return unique


def format_named(name: str, use: str) -> Format:
    usable = [known for known, format in FORMATS.items() if getattr(format, use) is not None]
    if name not in usable:
        raise UserError(f"no format {name!r} to {use}", hint=f"one of {', '.join(usable)}")
    return FORMATS[name]


def media_mode(writer: Format, media: str | None) -> str:
    if media is not None and media not in writer.media:
        raise UserError(f"{writer.name} can't hold images by {media!r}", hint=f"--media {' or '.join(writer.media)}")
    return media or writer.media[0]


def options_of(reader: Format, given: Mapping[str, Any]) -> Options:
    try:
        return reader.options.model_validate(dict(given))
    except ValidationError as error:
        known = ", ".join(reader.options.model_fields) or "none"
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        wrong = "no such option" if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"--set {name}: {wrong}", hint=f"options of {reader.name}: {known}") from None


def check_places(source: Path, out: Path, overwrite: bool) -> None:
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
