"""Accuracy of a demo model by kind of claim: counts, a table of one or several models, and the command that
prints it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mmpo.statistics import wilson

if TYPE_CHECKING:
    from mmpo.models.generation.answer import AnswerEngine

Found = TypeVar("Found")

BASE, TUNED = "base", "tuned"
"""The states of a model, as tables name them."""


@dataclass(frozen=True)
class KindShare:
    """The number `right` of `asked`: right ones, or what else the heading of their table says."""

    right: int = 0
    asked: int = 0

    def __add__(self, other: KindShare) -> KindShare:
        return KindShare(self.right + other.right, self.asked + other.asked)

    def __str__(self) -> str:
        if not self.asked:
            return "–"
        bounds = wilson(self.right, self.asked)
        share = 100 * self.right / self.asked
        return f"{share:.1f} [{100 * bounds.low:.1f}, {100 * bounds.high:.1f}] of {self.asked}"


KindOutcome = tuple[str, bool]
"""A kind of claim, and whether this claim of it is right."""


def shares(outcomes: Iterable[KindOutcome], kinds: Iterable[str] = ()) -> dict[str, KindShare]:
    """The outcomes counted by kind: `kinds` first and in their order, also those that do not occur."""
    found = dict.fromkeys(kinds, KindShare())
    for kind, right in outcomes:
        found[kind] = found.get(kind, KindShare()) + KindShare(int(right), 1)
    return found


def table(models: Mapping[str, Mapping[str, KindShare | str]], heading: str) -> str:
    """Markdown: a row for each kind, a column for each model (percent right, 95 % interval by Wilson, number)."""
    kinds = list(dict.fromkeys(kind for found in models.values() for kind in found))
    lines = [f"| {heading} | {' | '.join(models)} |", f"| --- |{' ---: |' * len(models)}"]
    lines += [
        f"| {kind} | {' | '.join(str(found.get(kind, KindShare())) for found in models.values())} |" for kind in kinds
    ]
    return "\n".join(lines)


def before_after(
    model: str | Path,
    adapter: str | Path | None,
    look: Callable[[AnswerEngine], Found],
    *,
    max_new_tokens: int,
) -> dict[str, Found]:
    """The results of `look` for a model, `base`, and with an adapter also `tuned`.

    `look` has read all its answers when it returns.
    """
    from mmpo.models.families.loading import load_vlm
    from mmpo.models.generation.answer import AnswerEngine

    engine = AnswerEngine(load_vlm(model, adapter=adapter), max_new_tokens=max_new_tokens)
    if adapter is None:
        return {BASE: look(engine)}
    with engine.adapter_off():
        found = {BASE: look(engine)}
    return {**found, TUNED: look(engine)}


class Measure(Protocol):
    """Measures a model on `number` items of the world's test split; the result is under the name of each state."""

    def __call__(
        self, model: Path, adapter: Path | None, number: int, seed: int, /
    ) -> Mapping[str, Mapping[str, KindShare | str]]: ...


def command(
    description: str | None,
    measure: Measure,
    shipped: Callable[[], Path],
    what: str,
    number: int,
    heading: str = "right, % [95 %]",
) -> None:
    """`[MODEL] [--adapter DIR] [--WHAT NUMBER] [--seed N] [--json]`: measure the model, `shipped` without one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="folder of the model; the shipped one without it")
    parser.add_argument("--adapter", type=Path, help="an adapter trained on it, to compare before and after")
    parser.add_argument(f"--{what}", type=int, default=number, help=f"{what} of the test split")
    parser.add_argument("--seed", type=int, default=0, help="another number is another world with the same rules")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = measure(arguments.model or shipped(), arguments.adapter, getattr(arguments, what), arguments.seed)
    if arguments.json:
        print(json.dumps(found, default=vars))
    else:
        print(table(found, heading))
