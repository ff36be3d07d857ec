"""One line a section: what a recipe will do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mmpo.preflight.sections import source_key


def summary(context_sections: Iterable[str], recipe: Any) -> list[str]:
    """One line a section: what will be done with what."""
    lines = []
    for name in context_sections:
        settings = getattr(recipe, name)
        if name == "build":
            source = getattr(settings, source_key(settings))
            given = f" from {source}" if source != settings.builder else ""
            limit = f", the first {settings.limit}" if getattr(settings, "limit", None) else ""
            model = f"; model {settings.model}" if getattr(settings, "model", None) else ""
            lines.append(f"build  {settings.builder}{given}{limit}{model}")
        elif name == "select":
            steps = ", ".join(step.name for step in settings.steps())
            model = f"; scored by {settings.model}" if settings.logps_read() and settings.logps is None else ""
            lines.append(f"select {steps} among {settings.pairs}{model}")
        elif name == "train":
            terms = ", ".join(
                f"{term} {json.dumps(given)}" if given else term for term, given in settings.objective.items()
            )
            length = f"{settings.max_steps} steps" if settings.max_steps else f"{settings.epochs:g} epochs"
            lines.append(
                f"train  {terms}; {length} of {settings.batch_size * settings.accumulation} pairs, learning rate "
                f"{settings.learning_rate:g}, rank {settings.lora.rank}, {settings.dtype}"
            )
        else:
            adapter = "with and without the adapter" if settings.adapter else "the model alone"
            if settings.before and settings.compare:
                adapter = f"{'with the adapter' if settings.adapter else 'the model'}, and {settings.before} before"
            lines.append(f"eval   {', '.join(settings.benchmarks)}; {adapter}")
    if recipe.rounds is not None:
        rounds = recipe.rounds
        start = "the model of the round before" if rounds.train_from == "previous" else "the recipe's model"
        fixed = "the recipe's model" if rounds.reference == "fixed" else "the model of the round before"
        lines.append(f"rounds {rounds.number}, each trained from {start}; reference {fixed}")
    return lines
