"""The steps of a run: the sections of its recipe once, or in rounds (`rounds: 3`).

    build-1  train-1  eval-1  merge-1  build-2  train-2  eval-2  …     rounds.json  rounds.md

`merge-r` writes the model of round r as a whole into `merge-r/model`; round r + 1 builds with it and, unless the recipe
says otherwise, trains on from it (`mmpo.recipes.in_round`). Each is a step of the run folder as any other: with its
settings, made from what it names, done once. Which rounds are done, and whether another is worth it, is read from the
finished steps alone, so a run that was killed anywhere goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.eval.statistics.rounds import RoundsTable
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.files.atomic import write_json, write_text
from mmpo.pipeline import check_section, run_section, section_settings, starts_over
from mmpo.recipes import Recipe
from mmpo.recipes.in_round import folder_of, in_round, model_after
from mmpo.runs import RunFolder, SectionState, is_main_process, process_count

MERGE = "merge"


@dataclass(frozen=True)
class PlannedStep:
    """One step of a run: a `section` of `recipe`, or `merge`, with which a round begins: it makes the model of the
    round before whole, and has the recipe of that one. `name` is its folder, `number` its round (0: none)."""

    run: RunFolder
    recipe: Recipe
    section: str
    number: int = 0

    @property
    def name(self) -> str:
        if self.section == MERGE:
            return folder_of(MERGE, self._before)
        return folder_of(self.section, self.number) if self.number else self.section

    @property
    def _before(self) -> int:
        return self.number - 1

    @property
    def path(self) -> Path:
        return self.run.step(self.name).path

    @property
    def state(self) -> SectionState:
        return self.run.step(self.name).state

    @property
    def again(self) -> bool:
        """True if it is done whatever is there."""
        return self.section != MERGE and starts_over(self.recipe, self.section)

    def check(self, coming: Collection[str] = ()) -> None:
        """Raises UserError if it was begun otherwise, or if what it needs is neither there nor among `coming`."""
        if self.section != MERGE:
            return check_section(self.run, self.recipe, self.section, name=self.name, coming=coming)
        step, trained = self.run.step(self.name), folder_of("train", self._before)
        step.check(self._merged())
        if trained not in coming and self.run.step(trained).state != "complete":
            raise UserError(
                f"{self.name} uses what {trained} makes, and {trained} is not complete in {self.run.path}",
                hint="run train there first, or everything in order with `mmpo run`",
            )
        return None

    def do(self) -> dict[str, Any]:
        """Do it, or take it as it is if it is complete; returns its result."""
        if self.section != MERGE:
            return run_section(self.run, self.recipe, self.section, name=self.name)
        self.check()
        if process_count() > 1 and self.state != "complete":
            raise UserError(f"{self.name} runs in one process", hint="`mmpo build` does it, before the next round")
        return self.run.step(self.name).do(self._merged(), self._merge)

    def _merged(self) -> dict[str, Any]:
        """What the whole model is made of, as settings of its step."""
        settings = section_settings(self.recipe, "train")
        adapter = self.run.step(folder_of("train", self._before)).path / "adapter"
        return {"model": settings["model"], "adapter": str(adapter), "plugins": settings.get("plugins", {})}

    def _merge(self) -> Mapping[str, Any]:
        from mmpo.trainers.export import export

        out = model_after(self.run.path, self._before)
        shutil.rmtree(out, ignore_errors=True)  # of a try that was stopped behind its last file
        done = export(self.run.step(folder_of("train", self._before)).path, out, merge=True)
        return {"model": out.name, "difference": done.difference, "effect": done.effect}


def planned(recipe: Recipe, run: RunFolder, section: str | None = None) -> list[PlannedStep]:
    """The steps in order, of all sections or of one; finished ones are among them. Of a recipe with rounds: as many
    rounds as are worth it by what is known now; one `section` is that of the round that is not finished, or of the
    last, with the merge before it where that is not done yet."""
    if recipe.rounds is None:
        return [PlannedStep(run, recipe, name) for name in ((section,) if section else recipe.sections())]
    rounds = [_round(recipe, run, number) for number in range(1, last_round(recipe, run) + 1)]
    if section is None:
        return [step for steps in rounds for step in steps]
    section_settings(recipe, section)  # (it has to have it)
    current = next((steps for steps in rounds if any(step.state != "complete" for step in steps)), rounds[-1])
    return [
        step
        for step in current
        if step.section == section or (step.section == MERGE and step.state != "complete")
    ]  # fmt: skip


def _round(recipe: Recipe, run: RunFolder, number: int) -> list[PlannedStep]:
    """The steps of a round: first the merge of the one before."""
    merge = [PlannedStep(run, in_round(recipe, run.path, number - 1), MERGE, number)] if number > 1 else []
    now = in_round(recipe, run.path, number)
    return [*merge, *(PlannedStep(run, now, section, number) for section in recipe.sections())]


def last_round(recipe: Recipe, run: RunFolder) -> int:
    """The last round by what is known now: that of `rounds.number`, or the one behind which it is not worth going
    on."""
    assert recipe.rounds is not None
    for number in range(1, recipe.rounds.number):
        table = rounds_table(recipe, run, number)
        if table is None:
            break
        if table.stopped:
            return number
    return recipe.rounds.number


def rounds_table(recipe: Recipe, run: RunFolder, last: int | None = None) -> RoundsTable | None:
    """The rounds that were evaluated, up to the round `last`, side by side. None where the recipe has no rounds, where
    none is evaluated, or with `last` where that one is not."""
    if recipe.rounds is None or recipe.eval is None:
        return None
    cards: list[Scorecard] = []
    for number in range(1, (last or recipe.rounds.number) + 1):
        step = run.step(folder_of("eval", number))
        if step.state != "complete":
            break
        cards.append(Scorecard.model_validate(step.result))
    if not cards or (last is not None and len(cards) < last):
        return None
    return RoundsTable.of(cards, recipe.rounds.stop)


def write_rounds(recipe: Recipe, run: RunFolder) -> RoundsTable | None:
    """Write `rounds.json` and `rounds.md`, and `results.json` of the steps that are done."""
    if recipe.rounds is None:
        run.write_results(recipe.sections())
        return None
    last = last_round(recipe, run)
    table = rounds_table(recipe, run, last) or rounds_table(recipe, run)
    names = [step.name for number in range(1, last + 1) for step in _round(recipe, run, number)]
    run.write_results(names, {} if table is None else {"rounds": table.model_dump(mode="json")})
    if table is not None and is_main_process():
        write_json(run.path / "rounds.json", table.model_dump(mode="json"))
        write_text(run.path / "rounds.md", table.to_markdown())
    return table


def finished_sections(run: RunFolder, given: Any, sections: Collection[str]) -> list[str]:
    """Those of `sections` that are complete in every round; `given` is the value of the key `rounds`, not yet
    validated."""
    number = given.get("number") if isinstance(given, Mapping) else given
    if not isinstance(number, int) or number < 1:
        return [name for name in sections if given is None and run.step(name).state == "complete"]
    numbers = range(1, min(number, 99) + 1)
    return [name for name in sections if all(run.step(folder_of(name, n)).state == "complete" for n in numbers)]
