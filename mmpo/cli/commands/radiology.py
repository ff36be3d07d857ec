"""mmpo radiology detect | edit | findings | films"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmpo.cli.app import group
from mmpo.cli.visible import echo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmpo.chat import ChatSettings

FileArgument = Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="JSON Lines with `text`.")]
LexiconOption = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Further words for the detector, YAML or JSON. Repeatable.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print JSON Lines and nothing else.")]


@group("radiology").command("detect")
def detect(
    file: FileArgument,
    lexicon: LexiconOption = None,
    judge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A YAML file of judge settings: a text model instead of rules.")
    ] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Find references to earlier exams in report sentences or whole reports.

    Each row is printed with `label`, `score`, `cues` and `spans` (characters).
    With --json the row's own keys stay, but for `label`, which is renamed
    to `given_label` where the file has one.

    [bold]Examples[/bold]

      mmpo radiology detect reports.jsonl
      mmpo radiology detect sentences.jsonl --json > judged.jsonl
    """
    import json

    from mmpo.cli import console
    from mmpo.radiology.detector import RuleDetector
    from mmpo.radiology.lexicon import load_lexicon

    if judge is not None:
        found = _judged(file, judge)
    else:
        detector = RuleDetector(load_lexicon(*(lexicon or ())))
        found = ((row, detector.report(row["text"]).row()) for row in _rows(file))
    flagged = total = 0
    for row, verdict in found:
        total += 1
        flagged += bool(verdict["label"])
        if as_json:
            given = {"given_label": row["label"]} if "label" in row else {}
            echo(json.dumps({**row, **given, **verdict}, ensure_ascii=False))
        else:
            cues = ", ".join(f"{cue['text']!r} ({cue['name']})" for cue in verdict["cues"])
            mark = "?" if verdict["label"] is None else "prior" if verdict["label"] else "-"
            echo(f"{mark:6} {verdict['score']:.2f}  {' '.join(row['text'].split())}" + (f"  [{cues}]" if cues else ""))
    if not as_json:
        console.line(f"{flagged:,} of {total:,} refer to an earlier exam")


@group("radiology").command("edit")
def edit(file: FileArgument, lexicon: LexiconOption = None, as_json: JsonLinesOption = False) -> None:
    """Take references to earlier exams out of reports, by rules.

    What is left keeps its findings, sides and sizes; a line that rules
    cannot rewrite well is dropped. With --json each row gets `edited`, and
    `lines` with the label of each (none, partial, all) and what became of it.

    [bold]Examples[/bold]

      mmpo radiology edit reports.jsonl
      mmpo radiology edit reports.jsonl --json > edited.jsonl
    """
    import json

    from mmpo.radiology.detector import RuleDetector
    from mmpo.radiology.editing import RuleEditor, edit_report
    from mmpo.radiology.lexicon import load_lexicon

    editor = RuleEditor(RuleDetector(load_lexicon(*(lexicon or ()))))
    for row in _rows(file):
        edited = edit_report(row["text"], editor)
        if as_json:
            lines = [{"text": line.text, "label": one.label, "edit": one.edit} for line, one in edited.lines]
            echo(json.dumps({**row, "edited": edited.text, "lines": lines}, ensure_ascii=False))
        else:
            echo(edited.text)


@group("radiology").command("findings")
def findings(file: FileArgument, as_json: JsonLinesOption = False) -> None:
    """Read the 14 CheXpert-style findings of reports, by rules.

    Not the CheXpert labeller, nor CheXbert: numbers differ from theirs.

    [bold]Example[/bold]

      mmpo radiology findings reports.jsonl --json
    """
    import json

    from mmpo.radiology.findings import report_findings

    for row in _rows(file):
        found = report_findings(row["text"])
        if as_json:
            echo(json.dumps({**row, "findings": found}, ensure_ascii=False))
        else:
            echo(", ".join(f"{name}: {status}" for name, status in found.items()) or "nothing named")


@group("radiology").command("films")
def films(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A folder of DICOM files.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write PNG files into.")],
) -> None:
    """Turn DICOM films into PNG files: windowed, the right way round, without any header field.

    Files that can't be used are listed in OUT/rejects.jsonl. Needs pydicom
    (pip install 'mmpo\\[radiology]').

    [bold]Example[/bold]

      mmpo radiology films dicom films
    """
    from mmpo.cli import console
    from mmpo.errors import Quarantined, UserError
    from mmpo.files.atomic import JsonLines, write_bytes
    from mmpo.radiology.films import dicom_picture, is_dicom

    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    done = 0
    with JsonLines(out / "rejects.jsonl") as rejects:
        rejects.truncate(0)
        for path in paths:
            inside = path.relative_to(source) if source.is_dir() else Path(path.name)
            try:
                data = path.read_bytes()
                if not is_dicom(data):
                    raise Quarantined("decode", "not_dicom", "no DICM mark")
                write_bytes((out / inside).with_suffix(".png"), dicom_picture(data))
                done += 1
            except Quarantined as error:
                rejects.append({"id": inside.as_posix(), "reason": error.reason, "detail": error.detail})
    console.line(f"{done:,} films written to {out}, {len(paths) - done:,} files not used ({out / 'rejects.jsonl'})")


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, each with a string `text`. UserError naming the line otherwise."""
    from mmpo.errors import Quarantined, UserError
    from mmpo.outside import Unreadable, json_of
    from mmpo.radiology.reports import decode_text

    try:
        text = decode_text(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except Quarantined:
        raise UserError(f"{file}: not a text file") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json_of(line)
        except Unreadable as error:
            raise error.at(f"{file}:{number}", lines=False) from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise UserError(f"{file}:{number}: no string `text`", hint='rows look like {"text": "Heart is stable."}')
        yield row


def _judged(file: Path, settings: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    from mmpo.chat import open_chat
    from mmpo.radiology.detector import JudgedLine, PriorVerdict, ReportVerdict
    from mmpo.radiology.judge import JudgeDetector
    from mmpo.radiology.lines import split_lines
    from mmpo.radiology.privacy import check_endpoint
    from mmpo.radiology.reports import truth

    rows = list(_rows(file))
    lines = [split_lines(row["text"]) for row in rows]
    chat_settings = _chat_settings(settings)
    check_endpoint(chat_settings, any(truth(row.get("credentialed")) for row in rows))
    with open_chat(chat_settings, file.with_suffix(".replies.jsonl")) as chat:
        found = JudgeDetector(chat).reports([[line.text for line in report] for report in lines])
    for row, report, verdicts in zip(rows, lines, found, strict=True):
        read = [verdict for verdict in verdicts if isinstance(verdict, PriorVerdict)]
        verdict = ReportVerdict(tuple(JudgedLine(*pair) for pair in zip(report, read, strict=False))).row()
        yield row, verdict if len(read) == len(verdicts) else {**verdict, "label": None, "score": 0.0}


def _chat_settings(path: Path) -> ChatSettings:
    from pydantic import ValidationError

    from mmpo.chat import ChatSettings
    from mmpo.errors import UserError
    from mmpo.outside import read_map

    try:
        return ChatSettings.model_validate(read_map(path))
    except ValidationError as error:
        raise UserError(f"{path}: {error}", hint="docs/judges.md") from None
