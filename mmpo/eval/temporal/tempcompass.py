"""TempCompass's own rules (Liu et al. 2024, arXiv 2403.00476; llyx97/TempCompass @ e1b4631, `eval_*.py`), on texts.

One rule a task. Each gives 1 (right) or 0, or None where it does not read the answer: the published scripts then ask a
language model, and without one (`--disable_llm`) count 0. Everything but yes and no is compared with its case.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

TaskName = Literal["multi-choice", "yes_no", "caption_matching", "captioning"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
SUFFIXES: dict[TaskName, str] = {
    "multi-choice": "\nPlease directly give the best option:",
    "caption_matching": "\nPlease directly give the best option:",
    "yes_no": "\nPlease answer yes or no:",
    "captioning": "",
}
"""The text after a question of each task in the prompt."""

_FILE_WORDS: tuple[tuple[str, TaskName], ...] = (
    ("captionmatching", "caption_matching"),
    ("multichoice", "multi-choice"),
    ("yesno", "yes_no"),
    ("captioning", "captioning"),
)
_OPTION = re.compile(r"(?:Caption|Option|Sentence) \S+: ")
_NAMES = ("Sentence ", "Option ", "Caption ")


def task_of(file: Path, question: str, gold: str) -> TaskName:
    """The task of an item: yes_no where the right answer is yes or no; by its file's name; else by its question."""
    if gold in ("yes", "no"):
        return "yes_no"
    plain = re.sub(r"[^a-z]", "", file.stem.lower())
    for word, task in _FILE_WORDS:
        if word in plain:
            return task
    if _OPTION.match(question.partition("\n")[2]):
        return "caption_matching"
    return "captioning" if question.rstrip().endswith("Generated Caption:") else "multi-choice"


def rate(task: TaskName, question: str, gold: str, said: str | None) -> int | None:
    """1 if an answer is right by the task's rule, else 0; None where the rule can't read it (always for a caption)."""
    if said is None or task == "captioning":
        return None
    answer = said.replace("</s>", "").strip()
    if task == "yes_no":
        found = next((word for word in ("yes", "no") if answer.lower().startswith(word)), None)
        return None if found is None else int(found == gold)
    return _choice(answer, gold) if task == "multi-choice" else _match(question, answer, gold)


def _choice(answer: str, gold: str) -> int | None:
    """Equal to the right option; else a letter A to D that stands alone or before a full stop or bracket."""
    if answer == gold:
        return 1
    letter = re.match(r"([A-D])(?:[.)]|\Z)", answer)
    return None if letter is None else int(letter.group(1) == gold[:1])


def _match(question: str, answer: str, gold: str) -> int | None:
    """1 if an answer gives the right option (a line after the first), whole, by its sentence, or by its name or number,
    else 0; None where it gives none. What is found later wins, as published.
    """
    options = question.split("\n")[1:]
    pieces = [option.split(": ") for option in options]
    sentences = [piece[1] for piece in pieces if len(piece) > 1]
    names = [piece[0] for piece in pieces]
    after_bracket = answer.split(") ")[1] if ") " in answer else None
    without_stops = answer.replace(".", "")
    found: str | None = None
    for option in options:
        if option == answer:
            found = option
    for sentence in sentences:
        if sentence in (answer, after_bracket):
            found = sentence
    for name in (*names, *(_bare(name) for name in names)):
        if name in (answer, without_stops):
            found = name
    if found is None:
        return None
    right = gold.split(": ")
    return int(found in (gold, gold.split(":")[0], *right[1:2], *right[0].split()[1:2]))


def _bare(name: str) -> str:
    for word in _NAMES:
        name = name.replace(word, "")
    return name


def read_correctness(reply: str) -> int | None:
    """A language model's verdict on an answer that no rule reads: 1, 0, or None (the scripts ask again, ten times,
    then count 0). It decides by how the reply begins, else "Incorrect" anywhere is 0 and "Correct" 1.
    """
    if "Correct" not in reply and "Incorrect" not in reply:
        return None
    if reply.startswith(("Correct", "Incorrect")):
        return int(reply.startswith("Correct"))
    return int("Incorrect" not in reply)


def read_caption_answer(reply: str, gold: str) -> int:
    """1 where a language model that saw only the caption gave the right option, "B. dunking" say: the last line with
    "Answer" (without the label), else the whole reply, with one mark A. to D. in all.
    """
    lines = [line for line in reply.split("\n") if "Answer" in line]
    answer = lines[-1].replace("Answer:", "").strip() if lines else reply
    marks = sum(answer.count(f"{letter}.") for letter in "ABCD")
    return int(marks == 1 and answer.split(". ")[0] == gold.split(". ")[0])
