"""MME's files: the scoring tool's folder, the benchmark's image folders, Hugging Face rows, LLaVA's packaging.

Whatever the packaging, a question is identified by subtask, image name without ending, and its words without the
instruction; answers are joined to questions by that, not by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.mme.metrics import IMAGES, MmeLabel, MmeQuestion, bare, stem
from mmpo.files.atomic import write_bytes, write_text
from mmpo.outside import naming, read_text

IMAGE_FOLDER, TEXT_FOLDER = "images", "questions_answers_YN"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_ROW_FILES = (".parquet", ".jsonl", ".json", ".gz")


@dataclass(frozen=True)
class MmeAnswer:
    """One answer to the question with this `key` (see `MmeQuestion.key`)."""

    key: tuple[str, str, str]
    text: str
    where: str = field(default="", compare=False)


def read_questions(path: str | Path) -> list[MmeQuestion]:
    """The questions in `path`, however they are packed: a folder of the scoring tool (`existence.txt`, …), the
    benchmark's folder (`existence/`, flat or split into `images` and `questions_answers_YN`), a file or folder of
    Hugging Face rows (Parquet or JSON Lines).

    Raises UserError naming file and line for anything malformed, a label that is neither yes nor no, a question that
    is there twice, or a path that holds no MME.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        questions = list(_row_questions([path]))
    elif tool := _tool_files(path):
        questions = [question for question, _ in _tool_lines(tool)]
    elif any((path / name).is_dir() for name in IMAGES):
        questions = list(_folder_questions(path))
    elif files := _row_files(path):
        questions = list(_row_questions(files))
    else:
        raise UserError(
            f"{path} holds no MME questions",
            hint="expected existence.txt and so on, folders of that name, or Parquet or JSON Lines of rows",
        )
    return _once(questions)


def read_tool_answers(folder: str | Path) -> tuple[list[MmeQuestion], list[MmeAnswer], int]:
    """A folder of the scoring tool with the responses filled in: questions, answers, and how many responses hold tabs
    (the tool stops at these; here the tab is part of the response).

    Raises UserError for a line without response.
    """
    folder = Path(folder)
    questions: list[MmeQuestion] = []
    answers: list[MmeAnswer] = []
    tabs = 0
    for question, response in _tool_lines(_tool_files(folder)):
        if response is None:
            raise UserError(
                f"{question.where}: no response; the line has only image, question and label",
                hint="the tool's lines are: image, question, label and response with tabs between",
            )
        questions.append(question)
        answers.append(MmeAnswer(question.key, response, question.where))
        tabs += "\t" in response
    if not questions:
        raise UserError(f"{folder} holds no subtask's file", hint="expected existence.txt, count.txt and so on")
    return _once(questions), answers, tabs


def read_row_answers(path: str | Path) -> list[MmeAnswer]:
    """Answers as JSON Lines: LLaVA's (`question_id` "subtask/image", `prompt`, `text`) or rows of the Hugging Face
    form with an `answer` or `response` of the model's (`question_id`, `question`, …, `category` where the id does not
    begin with it).
    """
    answers = []
    for where, row in read_records(path):
        asked = text_of(row, ("question", "prompt"), where)
        subtask, image = _identity(row, where)
        text = text_of(row, ("response", "prediction", "text", "answer"), where)
        answers.append(MmeAnswer((subtask, stem(image), bare(without_instruction(asked))), text, where))
    return answers


def without_instruction(asked: str) -> str:
    """The question of a prompt: LLaVA's packaging puts its own instruction on a line of its own."""
    first, newline, _ = asked.strip().partition("\n")
    return first if newline else asked


def join(questions: Sequence[MmeQuestion], answers: Iterable[MmeAnswer]) -> list[str]:
    """The answers in the order of the questions. Raises UserError where one is missing, there twice, or to another
    question.
    """
    by_key: dict[tuple[str, str, str], MmeAnswer] = {}
    known = {question.key for question in questions}
    for answer in answers:
        if answer.key in by_key:
            raise UserError(f"{answer.where}: {_shown(answer.key)} is already answered at {by_key[answer.key].where}")
        if answer.key not in known:
            raise UserError(
                f"{answer.where}: {_shown(answer.key)} is no question of these files",
                hint="are questions and answers of the same version, and the instruction on a line of its own?",
            )
        by_key[answer.key] = answer
    missing = next((question for question in questions if question.key not in by_key), None)
    if missing is not None:
        raise UserError(
            f"{len(questions)} questions but {len(by_key)} answers; the first without one is {_shown(missing.key)} "
            f"({missing.where or missing.image})"
        )
    return [by_key[question.key].text for question in questions]


def write_tool_files(folder: Path, questions: Sequence[MmeQuestion], answers: Sequence[str] | None = None) -> None:
    """Write the scoring tool's files, one a subtask; with `answers` as the fourth column. The tool takes neither tabs
    nor line breaks in a response, so they become spaces.
    """
    lines: dict[str, list[str]] = {}
    for place, question in enumerate(questions):
        columns = [question.image, " ".join(question.text.split()), question.label.capitalize()]
        if answers is not None:
            columns.append(" ".join(answers[place].split()))
        lines.setdefault(question.subtask, []).append("\t".join(columns) + "\n")
    for subtask, own in lines.items():
        write_text(folder / f"{subtask}.txt", "".join(own))


def image_path(folder: Path, question: MmeQuestion) -> str:
    """The path of a question's image below the benchmark's `folder`, in either layout; that of the flat one where there
    is no such file.
    """
    flat = f"{question.subtask}/{question.image}"
    split = f"{question.subtask}/{IMAGE_FOLDER}/{question.image}"
    places = (flat, split, question.image)
    return next((place for place in places if (folder / place).is_file()), flat)


def unpack_images(path: Path, into: Path) -> None:
    """Write the images that Hugging Face rows carry below `into`, as `subtask/name`. What is there stays."""
    for where, row in _rows(_row_files(path), images=True):
        subtask, name = _identity(row, where)
        image = row.get("image")
        data = image.get("bytes") if isinstance(image, Mapping) else None
        target = into / subtask / name
        if isinstance(data, bytes) and not target.exists():
            write_bytes(target, data)


def holds_rows(path: Path) -> bool:
    """True if `path` is a file or folder of rows, so that the images may be inside it."""
    return path.is_file() or not (_tool_files(path) or any((path / name).is_dir() for name in IMAGES))


# --- the scoring tool's files ------------------------------------------------------------------------------------


def _tool_files(folder: Path) -> list[Path]:
    return [file for name in IMAGES if (file := folder / f"{name}.txt").is_file()]


def _tool_lines(files: Iterable[Path]) -> Iterator[tuple[MmeQuestion, str | None]]:
    """(question, response or None) of each line."""
    for file in files:
        if not read_text(file).strip():
            raise UserError(f"{file} is empty", hint="was the writer stopped? Without the file its subtask is left out")
        for where, columns in _tabbed(file, least=3):
            response = "\t".join(columns[3:]) if len(columns) > 3 else None
            yield (
                MmeQuestion(file.stem, _name(columns[0], where), columns[1], _label(columns[2], where), where),
                response,
            )


def _tabbed(file: Path, least: int) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) < least:
            raise UserError(
                f"{file}:{number}: {len(columns)} column{'s' if len(columns) > 1 else ''} between tabs, expected "
                f"at least {least}",
                hint="was a line break left in a response? Each answer must stay on its line",
            )
        yield f"{file}:{number}", columns


# --- the benchmark's folders -------------------------------------------------------------------------------------


def _folder_questions(folder: Path) -> Iterator[MmeQuestion]:
    for subtask in IMAGES:
        home = folder / subtask
        if not home.is_dir():
            continue
        texts = home / TEXT_FOLDER if (home / TEXT_FOLDER).is_dir() else home
        pictures = home / IMAGE_FOLDER if (home / IMAGE_FOLDER).is_dir() else home
        by_stem = {p.stem: p.name for p in sorted(pictures.iterdir()) if p.suffix.lower() in _PICTURES}
        for file in sorted(texts.glob("*.txt")):
            if file.stem not in by_stem:
                raise UserError(
                    f"{file}: no image {file.stem}.jpg or .png", hint=f"images of {subtask} are in {pictures}"
                )
            for where, columns in _tabbed(file, least=2):
                yield MmeQuestion(subtask, by_stem[file.stem], columns[0], _label(columns[1], where), where)


# --- rows --------------------------------------------------------------------------------------------------------


def _row_questions(files: Sequence[Path]) -> Iterator[MmeQuestion]:
    for where, row in _rows(files):
        subtask, image = _identity(row, where)
        label = _label(text_of(row, ("answer",), where), where)
        yield MmeQuestion(subtask, image, text_of(row, ("question",), where), label, where)


def _row_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in _ROW_FILES and file.is_file())
    return [file for file in files if file.suffix == ".parquet"] or files  # beside Parquet, JSON describes the data set


def _rows(files: Iterable[Path], *, images: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
        if file.suffix != ".parquet":
            yield from read_records(file)
            continue
        import pyarrow.parquet as pq

        with naming(file, "Parquet"):
            table = pq.ParquetFile(file)
            columns = [name for name in table.schema_arrow.names if images or name != "image"]
            number = 0
            for batch in table.iter_batches(batch_size=64, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}:#{number}", row


def _identity(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """(subtask, image name) of a row."""
    given = text_of(dict(row), ("question_id",), where)
    subtask = row.get("category") if isinstance(row.get("category"), str) else given.partition("/")[0]
    if subtask not in IMAGES:
        raise UserError(f"{where}: {subtask!r} is no subtask of MME", hint=f"they are {', '.join(IMAGES)}")
    return subtask, _name(given.rsplit("/", 1)[-1], where)


def _name(image: str, where: str) -> str:
    name = image.strip()
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise UserError(f"{where}: {image!r} is no file name")
    return name


def _label(text: str, where: str) -> MmeLabel:
    label = text.strip().lower()
    if label not in ("yes", "no"):
        raise UserError(f"{where}: label {text!r} is neither yes nor no")
    return "yes" if label == "yes" else "no"


def _once(questions: list[MmeQuestion]) -> list[MmeQuestion]:
    seen: dict[tuple[str, str, str], str] = {}
    for question in questions:
        if question.key in seen:
            raise UserError(f"{question.where}: {_shown(question.key)} is already asked at {seen[question.key]}")
        seen[question.key] = question.where
    return questions


def _shown(key: tuple[str, str, str]) -> str:
    return f"{key[0]}/{key[1]} {key[2]!r}"
