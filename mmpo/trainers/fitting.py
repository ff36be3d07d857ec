"""Checks of settings against the objective: those set must have an effect, and those needed must be set."""

from __future__ import annotations

from mmpo.errors import UserError
from mmpo.objectives import Objective
from mmpo.objectives.reads import READS
from mmpo.objectives.stand_in import scores_read
from mmpo.trainers.regularizers.fitting import regularizer_problems
from mmpo.trainers.settings import TrainSettings

FitProblem = tuple[str, str, str]
"""Key of the `train` section, what is wrong, remedy."""


def objective_problems(settings: TrainSettings, objective: Objective) -> list[FitProblem]:
    """Every setting that does not fit the objective."""
    found: list[FitProblem] = []
    if "auxiliary" in objective.reads and settings.auxiliary is None:
        found.append(
            ("objective", "the objective has the term auxiliary, and there is no data for it", "set auxiliary.data")
        )
    if settings.auxiliary is not None and "auxiliary" not in objective.reads:
        found.append(
            ("auxiliary", "auxiliary data has no effect on this objective", "add auxiliary: {weight: 0.5} to it")
        )
    if not objective.on_pairs_alone().weights:
        found.append(
            ("objective", "auxiliary goes with a loss on the pairs", "to learn answers alone, use sft on pairs")
        )
    views = objective.views
    used = {view.prompt for view in views} | {view.image for view in views}
    for key, part, a_thing, remedy in (
        ("corruption", "corrupted", "a corruption has", "use mdpo, rdpo, vdpo or image_preference"),
        ("perturbation", "perturbed", "a perturbation has", "use tars or perturbed_dpo"),
        ("disturbance", "disturbed", "a disturbance has", "use tars_official"),
    ):
        if getattr(settings, key) is not None and part not in used:
            found.append((key, f"{a_thing} no effect on this objective", remedy))
    if settings.cache_reference and views:
        found.append(
            (
                "cache_reference",
                "cache_reference goes with losses on the pairs alone; this one also scores views, drawn at every visit",
                "leave cache_reference out",
            )
        )
    live = [read for read in sorted(objective.reads) if READS[read].live]
    if settings.cache_reference and live:
        found.append(
            (
                "cache_reference",
                f"cache_reference keeps log-probs of the pairs' own tokens; this objective reads {READS[live[0]].what}",
                "leave cache_reference out",
            )
        )
    if settings.token_weights is not None and "weights" not in objective.reads:
        found.append(("token_weights", "token_weights have no effect on this objective", "use span_dpo or dense_dpo"))
    if settings.scores is not None:
        read = scores_read(objective)
        unread = [name for name, given in settings.scores if given is not None and name not in read]
        if not read:
            found.append(("scores", "scores have no effect on this objective", "use odpo, mappo, sppo or uft"))
        elif unread:
            what = f"scores.{unread[0]} has no effect on this objective, which reads {', '.join(read)}"
            found.append(("scores", what, f"leave {unread[0]} out"))
    return found + regularizer_problems(settings)


def check_objective(settings: TrainSettings, objective: Objective) -> None:
    """Raises `UserError` for the first setting that does not fit."""
    for _, message, hint in objective_problems(settings, objective):
        raise UserError(message, hint=hint)
