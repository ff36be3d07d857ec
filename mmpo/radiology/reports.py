"""Reports from files: a CSV or JSON Lines table, or a folder in the layout of MIMIC-CXR; their sections by header.

A source that can't be used comes back as a rejected one with its reason, never as an error: an empty file, no findings
and impression, text in no known encoding, an image path that leaves its folder.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmpo.errors import Quarantined, UserError
from mmpo.outside import Unreadable, json_of, names_its_file

ReportSection = Literal["findings", "impression", "both", "report"]
HEADERS = {
    "findings": "findings",
    "finding": "findings",
    "findings and impression": "findings",
    "impression": "impression",
    "impressions": "impression",
    "conclusion": "impression",
    "conclusions": "impression",
    "opinion": "impression",
    "indication": "indication",
    "reason for exam": "indication",
    "reason for examination": "indication",
    "history": "indication",
    "clinical history": "indication",
    "clinical information": "indication",
    "technique": "technique",
    "procedure": "technique",
    "examination": "examination",
    "exam": "examination",
    "study": "examination",
    "comparison": "comparison",
    "comparisons": "comparison",
    "recommendation": "recommendation",
    "recommendations": "recommendation",
    "notification": "recommendation",
    "addendum": "addendum",
    "final report": "title",
    "wet read": "wet read",
}
_HEADER = re.compile(
    r"(?im)(?:^[ \t]*|(?<=[.:] )|(?<=[.]  ))("
    + "|".join(sorted(map(re.escape, HEADERS), key=len, reverse=True))
    + r")[ \t]*:[ \t]*"
    r"|^[ \t]*(" + "|".join(sorted(map(re.escape, HEADERS), key=len, reverse=True)) + r")[ \t]*$"
)
ID_COLUMNS = ("id", "study_id", "dicom_id", "uid", "report_id")
TEXT_COLUMNS = ("text", "report", "report_text")
IMAGE_COLUMNS = ("image", "images", "path", "image_path", "filename", "dicom_path")
PATIENT_COLUMNS = ("patient", "patient_id", "subject_id")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")
FILE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class RadiologyReport:
    """One report. `sections` are by kind (findings, impression, …); `images` are paths below `root`.

    `has_prior`: the model is given an earlier exam, so references to it are no hallucinations. `credentialed`: the text
    must not go to a remote server.
    """

    id: str
    text: str
    sections: Mapping[str, str]
    images: tuple[str, ...] = ()
    root: Path | None = None
    patient: str | None = None
    has_prior: bool = False
    credentialed: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)

    def body(self, section: ReportSection) -> str:
        """The wanted text; empty where the report has none. A report without any header is all findings."""
        if section == "report":
            return self.text
        parts = ["findings", "impression"] if section == "both" else [section]
        found = [self.sections[part] for part in parts if self.sections.get(part)]
        return "\n".join(found)


@dataclass(frozen=True)
class Rejected:
    """A source that can't be used."""

    id: str
    error: Quarantined


def sections_of(text: str) -> dict[str, str]:
    """The text under each known header (any case), joined where a header comes twice. Without headers: findings."""
    marks = list(_HEADER.finditer(text))
    if not marks:
        return {"findings": text.strip()} if text.strip() else {}
    found: dict[str, str] = {}
    for number, mark in enumerate(marks):
        end = marks[number + 1].start() if number + 1 < len(marks) else len(text)
        kind = HEADERS[(mark[1] or mark[2]).lower()]
        body = text[mark.end() : end].strip()
        if body:
            found[kind] = f"{found[kind]}\n{body}" if kind in found else body
    return found


def decode_text(data: bytes) -> str:
    """Text of a report file: UTF-8 (with or without mark), UTF-16 with a mark, else Windows-1252. Line ends become \\n.

    Raises Quarantined("read", "not_text") for binary data.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")
    if "\0" in text or sum(char == "\ufffd" for char in text) > len(text) / 20:
        raise Quarantined("read", "not_text", f"{len(data)} bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@names_its_file("reports")
def read_reports(source: str | Path, *, images: str | Path | None = None) -> Iterator[RadiologyReport | Rejected]:
    """Every report of `source` in a fixed order: a table (.csv, .tsv, .jsonl) or a MIMIC-CXR-like folder.

    `images` is the folder that image paths start from; left out, the table's folder or the report folder itself.
    Raises UserError where the source is missing or no row of it could ever be used (unknown columns).
    """
    path = Path(source)
    if path.is_dir():
        yield from _folder(path, Path(images) if images else path)
    elif not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    elif path.suffix.lower() not in FILE_SUFFIXES:
        raise UserError(f"{path}: reports are read from {', '.join(FILE_SUFFIXES)} or a folder")
    else:
        yield from _table(path, Path(images) if images else path.parent)


def _folder(reports: Path, images: Path) -> Iterator[RadiologyReport | Rejected]:
    """`…/p10/p10000032/s50414267.txt`, with the films in a folder `s50414267` next to it or at the same place below
    `images`. Films below `reports` without a report are rejected sources.
    """
    paths = set(reports.rglob("*.txt"))
    if not paths:
        raise UserError(f"{reports}: no .txt reports in it", hint="MIMIC-CXR: files/p10/p10000032/s50414267.txt")
    studies = {file.parent for file in reports.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES}
    silent = {study.with_name(f"{study.name}.txt") for study in studies if study != reports} - paths
    for path in sorted(paths | silent):
        inside = path.relative_to(reports)
        if path in silent:
            yield Rejected(inside.as_posix(), Quarantined("read", "no_report", f"films in {inside.with_suffix('')}"))
            continue
        films = images / inside.with_suffix("")
        beside = (
            [file for file in sorted(films.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES]
            if films.is_dir()
            else []
        )
        names = tuple(file.relative_to(images).as_posix() for file in beside)
        patient = path.parent.name if re.fullmatch(r"p\d+", path.parent.name) else None
        try:
            # A patient's folder p10000032 is MIMIC-CXR's, whose reports are under a data agreement.
            flags = {"credentialed": patient is not None}
            yield _report(path.stem, decode_text(path.read_bytes()), names, images, flags, patient)
        except Quarantined as error:
            yield Rejected(inside.as_posix(), error)
        except OSError as error:
            yield Rejected(inside.as_posix(), Quarantined("read", "unreadable", str(error.strerror)))


def _table(path: Path, images: Path) -> Iterator[RadiologyReport | Rejected]:
    try:
        text = decode_text(path.read_bytes())
    except Quarantined as error:
        raise UserError(f"{path}: not a text file ({error.detail})") from None
    rows = _json_rows(text, path) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv_rows(text, path)
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        place = f"{path.name}:{number}"
        if isinstance(row, Quarantined):
            yield Rejected(place, row)
            continue
        id = str(_first(row, ID_COLUMNS) or place)
        if id in seen:
            yield Rejected(place, Quarantined("read", "duplicate_id", id))
            continue
        seen.add(id)
        try:
            yield _from_row(id, row, images)
        except Quarantined as error:
            yield Rejected(id, error)


def _csv_rows(text: str, path: Path) -> Iterator[dict[str, Any]]:
    sample = text[:4096]
    delimiter = "\t" if path.suffix == ".tsv" or ("\t" in sample and "," not in sample.split("\n")[0]) else ","
    if ";" in sample.split("\n")[0] and "," not in sample.split("\n")[0]:
        delimiter = ";"
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    names = [name.strip().lower() for name in reader.fieldnames or []]
    if not set(names) & {*TEXT_COLUMNS, "findings", "impression"}:
        raise UserError(
            f"{path}: no column of report text among {', '.join(names) or 'none'}",
            hint=f"name one {', '.join((*TEXT_COLUMNS, 'findings', 'impression'))}",
        )
    for row in reader:
        yield {(key or "").strip().lower(): value for key, value in row.items() if isinstance(value, str)}


def _json_rows(text: str, path: Path) -> Iterator[dict[str, Any] | Quarantined]:
    if path.suffix.lower() == ".json":
        try:
            data = json_of(text)
        except Unreadable as error:
            raise error.at(str(path)) from None
        if not isinstance(data, list):
            raise UserError(f"{path}: must be a list of objects")
        lines: list[Any] = data
    else:
        lines = [line for line in text.split("\n") if line.strip()]
    for line in lines:
        try:
            row = json_of(line) if isinstance(line, str) else line
        except Unreadable as error:
            yield Quarantined("read", "not_json", error.problem)
            continue
        yield row if isinstance(row, dict) else Quarantined("read", "not_an_object", repr(row)[:80])


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _from_row(id: str, row: Mapping[str, Any], root: Path) -> RadiologyReport:
    text = _first(row, TEXT_COLUMNS)
    if text is None:
        named = [(name, row.get(name)) for name in ("findings", "impression")]
        text = "\n\n".join(f"{name.upper()}:\n{str(value).strip()}" for name, value in named if value)
    if not isinstance(text, str):
        raise Quarantined("read", "not_text", f"report is {type(text).__name__}")
    images = _first(row, IMAGE_COLUMNS) or ()
    if isinstance(images, str):
        images = [part for part in images.split("|") if part]
    if not isinstance(images, list | tuple) or not all(isinstance(image, str) for image in images):
        raise Quarantined("read", "bad_images", repr(images)[:80])
    patient = _first(row, PATIENT_COLUMNS)
    return _report(id, text, tuple(images), root, row, None if patient is None else str(patient))


def _report(
    id: str, text: str, images: tuple[str, ...], root: Path, row: Mapping[str, Any], patient: str | None
) -> RadiologyReport:
    if not text.strip():
        raise Quarantined("read", "empty_report", id)
    sections = sections_of(text)
    if not sections.get("findings") and not sections.get("impression"):
        raise Quarantined("read", "no_findings", f"sections: {', '.join(sections) or 'none'}")
    return RadiologyReport(
        id, text, sections, images, root, patient, truth(row.get("has_prior")), truth(row.get("credentialed"))
    )


def truth(value: Any) -> bool:
    """A flag of a table: true, yes and 1 in any case; anything else, and nothing, is false."""
    return str(value).strip().lower() in ("1", "true", "yes") if value is not None else False
