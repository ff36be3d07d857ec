"""Common part of `build`, `train`, `eval`, `run` and `demo`: from a recipe's name to finished steps in a run folder."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmpo import plugins, progress
from mmpo.cli import console
from mmpo.cli.app import Failed, Interrupted, debugging
from mmpo.cli.demo_world import WORLD, DemoWorld
from mmpo.cli.logs import logging_to, quiet_libraries
from mmpo.cli.summaries import after_everything, print_rounds, print_summary
from mmpo.errors import UserError
from mmpo.locks import announce, locked, private_files
from mmpo.pipeline import open_run
from mmpo.preflight import examine
from mmpo.progress_display import duration
from mmpo.recipes import Recipe, override, read
from mmpo.recipes.schema import SECTIONS
from mmpo.recipes.source import RecipeSource
from mmpo.rounds import MERGE, PlannedStep, finished_sections, last_round, planned, write_rounds
from mmpo.run_log import RUN
from mmpo.runs import RunFolder, choose_folder, is_main_process
from mmpo.storage import storage_error

TITLES = {
    "build": "building pairs",
    "select": "selecting pairs",
    "train": "training",
    "eval": "evaluating",
    MERGE: "the model with its adapter, whole, for the next round",
}
NEXT = {
    "build": "build the pairs",
    "select": "choose among the pairs",
    "train": "train on the pairs",
    "eval": "measure what changed",
}
CARDS = 200
"""Pairs, and answers, in the report that a run writes by itself; `mmpo report` shows more."""
logger = logging.getLogger(RUN)


def run_recipe(
    recipe_name: str,
    *,
    section: str | None = None,
    settings: Sequence[str] | None = None,
    out: Path | None = None,
    resume: bool = False,
    demo: DemoWorld | None = None,
    typed: Sequence[str] | None = None,
    source: RecipeSource | None = None,
) -> None:
    """Run one section of a recipe (all, where None), print what each made, and end with what to do next.

    `source` is the recipe itself where it is not to be read.
    `typed` is the command without `--out`, for a stopped run to name; left out, it is `mmpo SECTION|run RECIPE …`.
    """
    settings = settings or ()
    demo = demo or DemoWorld()
    source = source or read(recipe_name)
    override(source, settings)
    run = RunFolder(choose_folder(str(source.data["name"]), out=out, resume=resume))
    given = demo.names(run.path)
    wanted = (section,) if section else tuple(SECTIONS)
    finished = finished_sections(run, source.data.get("rounds"), wanted)
    recipe, warnings = examine(source, run=run.path, inputs=given, sections=wanted, finished=finished)
    chosen = planned(recipe, run, section)
    if not chosen:
        raise UserError(f"the recipe {recipe.name} has no section such as train, so there is nothing to run")
    for number, step in enumerate(chosen):
        step.check((WORLD, *(before.name for before in chosen[:number])))
    if is_main_process():
        for warning in warnings:
            console.warn(warning)
    typed = typed or ["mmpo", section or "run", recipe_name, *_as_options(settings)]
    again = console.command_line(*typed, "--out", run.path)
    with private_files(), locked(run.path) as before, _session(run, recipe, again, before):
        if is_main_process():
            demo.draw(run, recipe)
        table = None
        for step in chosen:
            if not section and recipe.rounds is not None and step.number > last_round(recipe, run):
                break  # what the rounds before brought is known by now
            _run_one(step, recipe)
            table = write_rounds(recipe, run)
        if table is not None:
            print_rounds(run, table)
        if is_main_process():
            _report(run, chosen)
    waiting = [step for step in planned(recipe, run) if step.state != "complete" and step.section != MERGE]
    if waiting:
        coming = waiting[0].section
        command = console.command_line("mmpo", coming, recipe_name, *_as_options(settings), "--out", run.path)
        console.next_steps([(NEXT[coming], command)])
    else:
        console.next_steps(after_everything(run, recipe))


def _report(run: RunFolder, steps: Sequence[PlannedStep]) -> None:
    """Write the page about the run and say where it is. It is made of finished results: its failure fails no run."""
    if not any(step.section in ("build", "select", "train", "eval") for step in steps):
        return
    try:
        from mmpo.report.report import write_report
        from mmpo.report.training import write_curves

        for step in steps:
            if step.section == "train" and (curves := write_curves(step.path)) is not None:
                console.line(f"curves: {curves}")
        made = write_report([run.path], cards=CARDS)
    except Exception as error:
        logger.warning("no report: %s", error, exc_info=True)
        console.warn(f"no report was written ({type(error).__name__}); the run is complete: mmpo report {run.path}")
    else:
        console.line(f"report: {made.path} ({made.size / 1e6:.1f} MB; open it in a browser)")


def _as_options(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _run_one(step: PlannedStep, recipe: Recipe) -> None:
    step.check()
    title = f"{step.section}: {TITLES[step.section]}"
    if recipe.rounds is not None:
        title = f"round {step.number} of {recipe.rounds.number}, {title}"
    if step.state == "complete" and not step.again:
        console.heading(f"{title} (done before, in {step.path})")
        result = step.do()
    else:
        resumed = step.state == "started" and not step.again
        console.heading(f"{title}{', continuing' if resumed else ''}")
        started = time.monotonic()
        logger.info("%s starts", step.name)
        quiet_libraries()
        result = step.do()
        logger.info("%s is complete", step.name)
        console.line(f"took {duration(time.monotonic() - started)}")
    print_summary(step.path, step.section, result)
    if step.section == "build" and not result["images_used"]:
        raise UserError(
            "the build made no pairs, so there is nothing to train on",
            hint=f"the reasons are above, and for each image in {step.path / 'pairs' / 'rejects.jsonl'}",
        )
    if step.section == "select" and not result["pairs_kept"]:
        raise UserError(
            "the selection kept no pairs, so there is nothing to train on",
            hint=f"the reasons are above, and for each pair in {step.path / 'pairs' / 'rejects.jsonl'}",
        )


@contextmanager
def _session(run: RunFolder, recipe: Recipe, again: str, before: str | None) -> Iterator[None]:
    """Run folder, log and progress display around the steps; turns Ctrl-C and unforeseen errors into advice. `before`
    is the dead process that held the folder."""
    if not is_main_process():
        # One process of several prints and writes; the others work.
        console.out.quiet = True
        run.path.mkdir(parents=True, exist_ok=True)
        with logging_to(run.path / "run.other-processes.log"):
            yield
        return
    open_run(run, recipe)
    console.line(f"{recipe.name} in {run.path}")
    log = run.path / "run.log"
    with logging_to(log), progress.reporting(console.reporter()):
        logger.info("mmpo %s", " ".join(sys.argv[1:]))
        announce(run.path, before)
        try:
            yield
        except KeyboardInterrupt as error:
            logger.info("stopped by the user")
            raise Interrupted(f"what is finished is kept; continue with: {again}") from error
        except UserError as error:
            logger.error("%s", error)
            raise
        except Exception as error:
            if (told := storage_error(error, run.path)) and not debugging():
                raise told from error
            logger.exception("unforeseen error")
            if debugging():
                raise
            raise plugins.crash(error, f"the trace is at the end of {log}") or Failed(error, log) from error
