"""The lines under a finished step, and what to do with a finished run; made from results alone, new or old."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo.cli import console
from mmpo.recipes import OUTPUTS, Recipe
from mmpo.rounds import last_round
from mmpo.runs import RunFolder

if TYPE_CHECKING:
    from mmpo.eval.statistics.rounds import RoundsTable


def print_summary(folder: Path, section: str, result: Mapping[str, Any]) -> None:
    """Print the result of a step in `folder`, in a few lines or a table."""
    {"build": _build, "select": _select, "train": _train, "eval": _eval, "merge": _merge}[section](folder, result)


def _build(folder: Path, result: Mapping[str, Any]) -> None:
    pairs = folder / "pairs"
    if not result["images_used"]:
        for kind, table in result["counts"].items():
            lost = _losses(table)
            console.line(f"no pair from {table['in']:,} {kind}: {lost or 'nothing came in'}")
        for warning in result.get("warnings", ()):
            console.line(f"warning: {warning}")
        return
    builders = {
        "video_rewards": _video_build,
        "radiology": _radiology_build,
        "mia": _mia_build,
        "candidates": _candidates_build,
        "pairs_from_candidates": _made_build,
    }
    usual = _hallucination_build if "builder" not in result else _other_build
    sources = builders.get(result.get("builder", ""), usual)(result)
    for warning in result.get("warnings", ()):
        console.line(f"warning: {warning}")
    left_out = result["images"] - result["images_used"]
    reasons = str(pairs / "rejects.jsonl")
    if result.get("candidates"):
        told = folder / result["candidates"]
        console.line(f"candidates, claims and verdicts: {told} (mmpo inspect {told})")
        reasons = f"{told / 'rejects.jsonl'}" + (f" and {reasons}" if result.get("pairs") else "")
    made = "pairs" not in result or result["pairs"] is not None
    if left_out:
        what = "pair" if made else "candidate of use"
        console.line(f"{left_out:,} {sources} gave no {what}; the reasons are in {reasons}")
    if made:
        console.line(f"pairs: {pairs}")


def _hallucination_build(result: Mapping[str, Any]) -> str:
    console.line(f"{result['hallucinating_share']:.0%} of the model's descriptions name an object that is not there")
    console.line(
        f"{result['description_pairs']:,} pairs about a hallucination, {result['omission_pairs']:,} about an "
        f"omission (chosen {result['chosen_words']:.1f} words, rejected {result['rejected_words']:.1f}), "
        f"{result['question_pairs']:,} yes/no pairs{_answers(result)}, {_values(result)}"
        f"from {result['images_used']:,} of {result['images']:,} images"
    )
    counts = result["counts"]
    if silent := {reason: count for reason, count in counts["descriptions"].items() if ": " in reason}:
        console.line(f"{sum(silent.values()):,} descriptions came to nothing at a text model: {_losses(silent)}")
    if flipped := _losses(counts.get("wordings", {})):
        console.line(f"of {counts['wordings']['in']:,} wordings were dropped: {flipped}")
    if result.get("style"):
        from mmpo.data_builders.hallucination.style_probe import StyleReport

        console.line(StyleReport.model_validate(result["style"]).line())
    return "images"


def _other_build(result: Mapping[str, Any]) -> str:
    """Print the result of a plug-in's builder (`mmpo.data_builders.entry.PairsBuilt`)."""
    console.line(f"{result['pairs_made']:,} pairs from {result['images_used']:,} of {result['images']:,} sources")
    return "sources"


def _answers(result: Mapping[str, Any]) -> str:
    """The distribution of the right answers of yes/no pairs; empty for a result without it."""
    answers = result.get("question_answers") or {}
    said = ", ".join(f"{answer} in {count:,}" for answer, count in answers.items())
    return f" (right answer {said})" if said and result["question_pairs"] else ""


def _values(result: Mapping[str, Any]) -> str:
    """The pairs from questions about numbers, colours and places, by kind."""
    pairs = {kind: count for kind, count in (result.get("value_pairs") or {}).items() if count}
    said = ", ".join(f"{kind} {count:,}" for kind, count in pairs.items())
    return f"{sum(pairs.values()):,} pairs about a value ({said}), " if pairs else ""


def _candidates_build(result: Mapping[str, Any]) -> str:
    claims = result["counts"]["claims"]
    recall = result["recall_pool"]
    console.line(
        f"{result['candidates_made']:,} responses about {result['images']:,} photos; of {claims['in']:,} claims "
        f"{claims['present']:,} are right, {claims['absent']:,} wrong, {claims['uncertain']:,} uncertain"
    )
    console.line(
        f"{result['absent_share']:.0%} of the greedy responses name something that is not there ({result['words']:.0f} "
        "words in the mean" + ("" if recall is None else f"; {recall:.0%} of what is known to be there") + ")"
    )
    if result["made"] is not None:
        _made_build(result["made"])
    return "photos"


def _made_build(result: Mapping[str, Any]) -> str:
    if guarded := {reason[7:]: n for reason, n in result["counts"]["pairs"].items() if reason.startswith("guard: ")}:
        console.line(f"{sum(guarded.values()):,} pairs were left out by guards: {_losses(guarded)}")
    return _pairs_made(result, "photos")


def _pairs_made(result: Mapping[str, Any], sources: str) -> str:
    console.line(
        f"{result['pairs_made']:,} pairs (chosen {result['chosen_words']:.1f} words, rejected "
        f"{result['rejected_words']:.1f}) from {result['images_used']:,} of {result['images']:,} {sources}"
    )
    return sources


def _losses(table: Mapping[str, int]) -> str:
    """The losses in a table of counts: number and reason of each."""
    return ", ".join(f"{n:,} {reason}" for reason, n in table.items() if n and reason not in ("in", "paired", "kept"))


def _video_build(result: Mapping[str, Any]) -> str:
    rewards = ", ".join(f"{score}: {count:,}" for score, count in result["scores"].items())
    console.line(f"rewards by {result['judge']}: {rewards} (mean {result['mean_score']:.2f})")
    return _pairs_made(result, "videos")


def _radiology_build(result: Mapping[str, Any]) -> str:
    console.line(f"{result['lines_with_priors']:.2f} lines of a text refer to an earlier exam, by {result['editor']}")
    return _pairs_made(result, "reports")


def _mia_build(result: Mapping[str, Any]) -> str:
    for kind, row in result["ratios"].items():
        kept = result["counts"][f"answers, {kind}"]["paired"]
        console.line(
            f"{kind}: {row['ratio']:.2f} of the attention on the target (uniform {row['uniform']:.2f}, kept up to "
            f"{row['threshold']:.2f}); {kept:,} of {row['answers']:,.0f} answers kept"
        )
    return _pairs_made(result, "prompts")


def _select(folder: Path, result: Mapping[str, Any]) -> None:
    for step in result["steps"]:
        lost = ", ".join(f"{count:,} {reason}" for reason, count in step["dropped"].items())
        console.line(f"{step['step']}: {step['kept']:,} of {step['pairs_in']:,}" + (f" ({lost})" if lost else ""))
        if step["figures"]:
            console.line("  " + ", ".join(f"{name} {value:.4g}" for name, value in step["figures"].items()))
    before, after = result["before"], result["after"]
    if before["length_difference"] is not None and after["length_difference"] is not None:
        console.line(
            f"chosen minus rejected in words: {before['length_difference']:+.1f} -> {after['length_difference']:+.1f}"
        )
    for name, mean in before["margins"].items():
        if mean is not None and after["margins"].get(name) is not None:
            console.line(f"mean margin {name}: {mean:.3f} -> {after['margins'][name]:.3f}")
    if result["ordered"]:
        stages = ", ".join(f"{count:,}" for count in result["stages"].values())
        console.line(f"ordered for training, in stages of {stages} pairs")
    pairs = folder / "pairs"
    if result["pairs_kept"] < result["pairs_in"]:
        console.line(f"why each other pair was dropped: {pairs / 'rejects.jsonl'}")
    console.line(f"pairs: {pairs}")


def _train(folder: Path, result: Mapping[str, Any]) -> None:
    console.line(
        f"{result['pairs']:,} pairs, {result['steps']:,} steps, {result['trainable_parameters']:,} trainable parameters"
    )
    before, after = result["first_eval"] or {}, result["last_eval"] or {}
    for metric, label in (
        ("eval_rewards/accuracies", "held-out pairs where chosen beats rejected"),
        ("eval_loss", "held-out loss"),
    ):
        if after.get(metric) is not None:
            start = f"{before[metric]:.3f} -> " if before.get(metric) is not None else ""
            console.line(f"{label}: {start}{after[metric]:.3f}")
    dropped = {reason: count for reason, count in result["dropped"].items() if count}
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        console.line(f"pairs not used: {reasons}; see {folder / 'rejects.jsonl'}")
    console.line(f"adapter: {folder / 'adapter'}")


def _merge(folder: Path, result: Mapping[str, Any]) -> None:
    console.line(
        f"read back: at most {result['difference']:.1g} nats per token from model and adapter, whose own effect is "
        f"{result['effect']:.2g}"
    )
    console.line(f"model: {folder / result['model']}")


def _eval(folder: Path, result: Mapping[str, Any]) -> None:
    from mmpo.eval.statistics.scorecard import Scorecard

    console.out.print()
    console.out.print(Scorecard.model_validate(result))
    console.line(f"scorecard: {folder / 'scorecard.md'}")


def print_rounds(run: RunFolder, table: RoundsTable) -> None:
    """Print the rounds side by side, and why they ended early if they did."""
    console.heading("rounds")
    console.out.print(table)
    console.line(f"rounds: {run.path / 'rounds.md'}")


def after_everything(run: RunFolder, recipe: Recipe) -> list[tuple[str, str]]:
    """`(why, command)` pairs for a run with nothing left to do."""
    steps = []
    if recipe.train is not None and recipe.rounds is not None:
        last = last_round(recipe, run)
        whole = console.command_line("mmpo", "export", run.path, "my-model", "--merge")
        steps.append((f"write the model of round {last} into a folder of its own", whole))
    elif recipe.train is not None:
        load = f'PeftModel.from_pretrained(model, "{run.path / OUTPUTS["train.adapter"]}")'
        steps.append((f"use the adapter in Python, with peft, on {recipe.train.model}", load))
    if recipe.name == "demo":
        steps.append(("do the same with images and a model of yours", "mmpo recipe show own-images > my.yaml"))
        steps.append(("and, with the paths in it edited", "mmpo run my.yaml"))
    elif recipe.train is None and recipe.eval is not None:
        steps.append(("make the model better on such images", "mmpo recipe show own-images > my.yaml"))
    return steps
