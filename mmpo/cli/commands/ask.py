"""mmpo ask PHOTO… QUESTION"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmpo.cli.app import app
from mmpo.cli.visible import echo

if TYPE_CHECKING:
    from mmpo.api.answers import Answers, PhotoAnswer
    from mmpo.api.choice import ModelChoice


@app.command()
def ask(
    words: Annotated[
        list[str], typer.Argument(metavar="PHOTO… QUESTION", help="One or more photos, and the question in quotes.")
    ],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="A run that trained: its model, before and after.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="A model's folder or name.")] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="DIR", help="An adapter of that model, for before and after.")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option("--also", metavar="QUESTION", help="One more question. Repeatable.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Show all photos at once, and ask about them together.")
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest answer, in tokens.")
    ] = 128,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, and nothing else.")] = False,
) -> None:
    """Ask a model about photos, before and after its tuning.

    The adapter is switched off for the first answer and on for the second.
    To a question of yes or no it adds P(yes), the probability of yes against
    no at the first word: it moves before the answer does.

    [bold]Examples[/bold]

      mmpo ask kitchen.jpg "Is there a knife on the table?" --run runs/mine
      mmpo ask *.jpg "Describe the image." --model MODEL --adapter ADAPTER
      mmpo ask a.png "Is there a dog?" --also "Is there a cat?" --run runs/mine
      mmpo ask a.png b.png "What differs?" --together --model MODEL
    """
    from mmpo.cli import console
    from mmpo.cli.logs import silence_libraries
    from mmpo.progress import reporting

    silence_libraries()
    photos, questions = words[:-1], [words[-1], *(also or ())]
    choice = _examined(photos, questions, run, model, adapter)
    import mmpo
    from mmpo.cli.logs import quiet_libraries

    quiet_libraries()
    with reporting(console.reporter()), mmpo.load(choice.model, choice.adapter, **choice.options) as loaded:
        answers = loaded.ask(photos, questions, together=together, max_new_tokens=max_new_tokens)
    if json_:
        _print_json(answers)
        return
    _print(answers)
    steps = [("measure it on many images, with intervals", "mmpo recipe show own-images > my.yaml")]
    if run is not None:
        steps.insert(
            0, ("put the adapter into a folder of its own", console.command_line("mmpo", "export", run, "OUT"))
        )
    elif adapter is None:
        steps = [("correct what it says wrongly, and measure it", "mmpo recipe show own-images > my.yaml")]
    console.next_steps(steps)


def _examined(
    photos: list[str], questions: list[str], run: Path | None, model: str | None, adapter: str | None
) -> ModelChoice:
    """The model that is meant. Raises one `UserError` that lists every mistake, before anything is loaded."""
    from mmpo.api.choice import chosen
    from mmpo.api.photos import photos_of, questions_of
    from mmpo.cli import console
    from mmpo.errors import UserError
    from mmpo.preflight.context import Findings
    from mmpo.recipes.problems import listed

    found = Findings()
    with found.noting(()):
        if not photos:
            one = questions[0]
            photo = os.path.isfile(one)
            words = ("mmpo", "ask", one, "Is there a dog in it?") if photo else ("mmpo", "ask", "PHOTO", one)
            raise UserError(
                f"{one}: a photo, and no question" if photo else f"{one!r}: a question, and no photo",
                hint=console.command_line(*words),
            )
        if os.path.isfile(questions[0]):
            raise UserError(f"{questions[0]}: a photo; the question comes last", hint='in quotes: "Is there a dog?"')
        questions_of(questions)
    if photos:
        with found.noting(()):
            photos_of(photos)
    choice = None
    with found.noting(()):
        choice = chosen(run, model, adapter)
        choice.check()
    if found.problems or choice is None:
        raise listed(found.problems, lambda one: one.message + (f"\n  hint: {one.hint}" if one.hint else ""))
    return choice


def _print(answers: Answers) -> None:
    """A table for each photo: the questions, and the answers before and after."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from mmpo.cli import console

    for photo in dict.fromkeys(one.photo for one in answers):
        own = [one for one in answers if one.photo == photo]
        compared = own[0].before is not None
        console.heading(photo)
        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for name in ("question", *(("before", "after") if compared else ("answer",))):
            table.add_column(name, overflow="fold")
        for one in own:
            cells = [_cell(one.before, one.p_yes_before)] if one.before is not None else []
            table.add_row(*map(Text, (one.question, *cells, _cell(one.after, one.p_yes))))
        console.out.print(table)
    if cut := sum(one.after.truncated for one in answers):
        console.line(f"{cut} of {len(answers)} answers were cut off; --max-new-tokens N lets them continue")


def _cell(answer: Any, p_yes: float | None) -> str:
    said = answer.text or "(nothing)"
    return said if p_yes is None else f"{said}\nP(yes) {p_yes:.3f}"


def _print_json(answers: Answers) -> None:
    import json

    for one in answers:
        echo(json.dumps(_row(one), ensure_ascii=False))


def _row(one: PhotoAnswer) -> dict[str, Any]:
    row: dict[str, Any] = {"photo": one.photo, "question": one.question}
    if one.before is not None:
        row |= {"before": one.before.text, "before_p_yes": one.p_yes_before}
    return {**row, "after": one.text, "after_p_yes": one.p_yes, "truncated": one.after.truncated}
