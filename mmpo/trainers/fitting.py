"""Checks of settings against the objective: those set must have an effect, and those needed must be set."""

from __future__ import annotations

from mmpo.errors import UserError
from mmpo.objectives import Objective
from mmpo.objectives.reads import READS
from mmpo.objectives.stand_in import scores_read
from mmpo.trainers.regularizers.fitting import regularizer_problems
from mmpo.trainers.settings import TrainSettings
from mmpo.trainers.sharding import is_cut

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
    if "groups" in objective.reads and settings.groups is None:
        found.append(
            (
                "objective",
                "the objective reads groups of scored responses, and there are none",
                "set groups.data: a folder of groups, or of pairs, each a group of two",
            )
        )
    if settings.groups is not None and "groups" not in objective.reads:
        found.append(
            (
                "groups",
                "groups of responses have no effect on this objective",
                "use nca or infonca, or kto, una_mse or uft with rows: responses",
            )
        )
    if not objective.on_pairs_alone().weights:
        found.append(
            ("objective", "auxiliary goes with a loss on the pairs", "to learn answers alone, use sft on pairs")
        )
    if "samples" in objective.reads and settings.samples_from is None:
        found.append(
            ("objective", "the objective reads samples of the reference, and there are none", "set samples_from.data")
        )
    if settings.samples_from is not None and "samples" not in objective.reads:
        found.append(("samples_from", "samples_from has no effect on this objective", "use typo"))
    if not any(objective.at(end).weights[name] for name in objective.weights for end in (0.0, 1.0)):
        found.append(("objective", "every term has the weight 0: nothing would be learnt", "leave weight out"))
    views = objective.views
    used = {view.prompt for view in views} | {view.image for view in views}
    if settings.corruption is not None and settings.corruption.kind == "patches" and "partial" in used:
        used.add("corrupted")
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
    found += _reference_problems(settings, objective)
    live = [read for read in sorted(objective.reads) if READS[read].live]
    if settings.cache_reference and live:
        found.append(
            (
                "cache_reference",
                f"cache_reference keeps log-probs of the pairs' own tokens; this objective reads {READS[live[0]].what}",
                "leave cache_reference out",
            )
        )
    scored_parts = {"steps", "segments"} & objective.reads
    if settings.parts is not None and not scored_parts:
        found.append(("parts", "parts have no effect on this objective", "use full_step_dpo or dpo_2d"))
    weighed = "weights" in objective.reads or (settings.parts == "weights" and scored_parts)
    if settings.token_weights is not None and not weighed:
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


def _reference_problems(settings: TrainSettings, objective: Objective) -> list[FitProblem]:
    """References that nothing reads, that are read and not there, and that move while their numbers are kept."""
    found: list[FitProblem] = []
    if settings.reference is not None and "reference" not in objective.reads:
        found.append(("reference", "a reference has no effect on this objective", "leave reference out"))
    if settings.references is not None and "second_reference" not in objective.reads:
        found.append(("references", "a second reference has no effect on this objective", "use mrpo"))
    if settings.references is None and "second_reference" in objective.reads:
        found.append(
            (
                "references",
                "the objective reads a second reference, and none is named",
                "references: {second: {adapter: PATH}} or {second: {model: NAME}}",
            )
        )
    if settings.cache_reference and settings.reference is not None and settings.reference.moving is not None:
        found.append(
            ("cache_reference", "a moving reference changes, and kept log-probs do not", "leave cache_reference out")
        )
    return found


def check_objective(settings: TrainSettings, objective: Objective) -> None:
    """Raises `UserError` for the first setting that does not fit."""
    for _, message, hint in objective_problems(settings, objective):
        raise UserError(message, hint=hint)


def check_sharding(settings: TrainSettings) -> None:
    """Raises `UserError` for the first setting that needs whole weights, where the launcher was told to cut them up."""
    if not is_cut():
        return
    on = settings.regularizers.on if settings.regularizers is not None else ()
    moves = settings.reference is not None and settings.reference.moving is not None
    whole = [f"regularizers ({', '.join(on)}) need"] if on else []
    whole += ["a moving reference needs"] if moves else []
    if whole:
        raise UserError(
            f"{whole[0]} whole weights, which FSDP and DeepSpeed cut up",
            hint=f"train without them, or leave {'regularizers' if on else 'reference.moving'} out",
        )
    if settings.quantize != "none":
        raise UserError(
            f"quantize: {settings.quantize} is not supported under FSDP and DeepSpeed",
            hint="quantize: none, or accelerate launch --multi_gpu",
        )
