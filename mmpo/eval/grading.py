"""What every answer counts as, written beside it: `answers.jsonl` gains columns, `flips.jsonl` lists what changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpo.data.records import write_lines
from mmpo.eval.answers import AnswerLog
from mmpo.eval.collecting import Keys, Responses
from mmpo.eval.protocol import Grade, Request
from mmpo.eval.task import Task

FLIPS = "flips.jsonl"
COLUMNS = ("benchmark", "split", "expected", "parsed", "right", "root", "also")
"""`also` holds the first five again for each further question that the same answer counts for; `root` is the folder of
the pictures, where the benchmark has its own."""


def write_grades(run_dir: Path, benchmarks: Mapping[str, Task[Any]], responses: Responses, keys: Keys) -> None:
    """Add to each row of `answers.jsonl` what its benchmarks read in it, and write the answers that are right in one
    state and wrong in the other to `flips.jsonl`, broken ones first."""
    noted: dict[str, dict[str, Any]] = {}
    graded: dict[tuple[str, Request, str | None], dict[str, Grade]] = {}
    for name, benchmark in benchmarks.items():
        for state, given in responses.items():
            for request, grade in benchmark.grades(given):
                row = {"benchmark": name, **_columns(grade)}
                kept = noted.setdefault(keys[state, request], row | ({"root": request.root} if request.root else {}))
                if any(kept[column] != value for column, value in row.items()) and row not in kept.get("also", ()):
                    kept.setdefault("also", []).append(row)
                graded.setdefault((name, request, grade.split), {})[state] = grade
    with AnswerLog(run_dir / "answers.jsonl") as log:
        log.note(noted, COLUMNS)
    flips = [
        _flip(name, split, request, grades, responses)
        for (name, request, split), grades in graded.items()
        if len(grades) == 2 and None not in (rights := {one.right for one in grades.values()}) and len(rights) == 2
    ]
    write_lines(run_dir / FLIPS, sorted(flips, key=lambda row: row["change"]))  # broken, then fixed


def _columns(grade: Grade) -> dict[str, Any]:
    return {"split": grade.split, "expected": grade.expected, "parsed": grade.parsed, "right": grade.right}


def _flip(
    benchmark: str, split: str | None, request: Request, grades: Mapping[str, Grade], responses: Responses
) -> dict[str, Any]:
    states = {state: (given[request], grades[state]) for state, given in responses.items()}
    return {
        "benchmark": benchmark,
        "split": split,
        "change": "fixed" if grades["after"].right else "broken",
        "image": request.image,
        **({"more": list(request.more)} if request.more else {}),
        **({"root": request.root} if request.root else {}),
        "prompt": request.prompt,
        "expected": grades["after"].expected,
        **{
            state: {"answer": said.text, "parsed": grade.parsed, "p_yes": said.p_yes, "margin": said.margin}
            for state, (said, grade) in states.items()
        },
    }
