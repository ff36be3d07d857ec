"""How far the steps of a run are, from what is in its folder. Nothing is written, nobody is disturbed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmpo.data_builders.units import TOTAL
from mmpo.errors import UserError
from mmpo.eval.collecting import ASKED, CLAIMS
from mmpo.files import owners
from mmpo.files.atomic import read_json
from mmpo.locks import CLAIM, NAME, holders_in
from mmpo.runs import RunFolder, SectionState
from mmpo.team import all_logs

RECENT = 50
"""Units from whose times the rate is taken."""


@dataclass(frozen=True)
class PieceClaimed:
    """A piece of work that a process is at, or was at when it died."""

    what: str
    by: str
    since: str
    dead: bool
    """True where it is known to be dead: the next worker takes its work over."""


@dataclass(frozen=True)
class WorkDone:
    """One kind of work of a step: `done` of `total` (None: unknown) `what`; `per_second` and `seconds_left` as far as
    they can be told."""

    what: str
    done: int
    total: int | None = None
    per_second: float | None = None
    claimed: Sequence[PieceClaimed] = ()

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or not self.per_second:
            return None
        return (self.total - self.done) / self.per_second


@dataclass(frozen=True)
class StepStatus:
    name: str
    state: SectionState
    work: Sequence[WorkDone] = field(default_factory=list)


def workers_of(run: Path) -> list[PieceClaimed]:
    """The processes that hold the run folder."""
    return _claims(run / NAME, "")


def status_of(run: Path) -> list[StepStatus]:
    """Every step that was begun. Raises UserError for a folder that holds no run."""
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: no run folder (no recipe.yaml)", hint="name the folder that --out named")
    folder = RunFolder(run)
    names = sorted(
        (path.parent.name for path in run.glob("*/step.json")), key=lambda name: (run / name).stat().st_ctime
    )
    return [StepStatus(name, folder.step(name).state, list(_work(run / name))) for name in names]


def _work(step: Path) -> Iterator[WorkDone]:
    for total in sorted(step.glob(f"*/{TOTAL}"), key=lambda path: path.stat().st_mtime):
        yield _units(total)
    if (step / ASKED).exists():
        answers = sum(path.read_bytes().count(b"\n") for path in all_logs(step / "answers.jsonl"))
        yield WorkDone("answers", answers, _number(step / ASKED), claimed=_claimed(step / CLAIMS))
    checkpoints = sorted(step.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if checkpoints:
        state = read_json(checkpoints[-1])
        yield WorkDone("steps, at the last checkpoint", state["global_step"], state["max_steps"])


def _units(total: Path) -> WorkDone:
    folder = total.parent
    times = sorted(path.stat().st_mtime for path in folder.glob("*.json") if not path.name.startswith("."))
    recent = times[-RECENT:]
    # From the first of them until now: a build that stands still shows it.
    passed = time.time() - recent[0] if len(recent) > 1 else 0.0
    rate = (len(recent) - 1) / passed if passed > 0 else None
    return WorkDone(folder.name, len(times), _number(total), rate, _claimed(folder))


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="utf-8").strip()
    return int(text) if text.isdecimal() else None


def _claimed(folder: Path) -> list[PieceClaimed]:
    found = []
    for path in sorted(folder.glob(f".*{CLAIM}")):
        found += _claims(path, re.sub(r"\.json$", "", path.name[1 : -len(CLAIM)]))
    return found


def _claims(path: Path, what: str) -> list[PieceClaimed]:
    return [
        PieceClaimed(
            what,
            f"process {one.get('pid', '?')} on {one.get('host', '?')}",
            str(one.get("since", "?")),
            owners.lives(str(one.get("owner"))) is False,
        )
        for one in holders_in(path)
    ]
