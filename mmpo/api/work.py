"""The stages from Python: `build`, `train`, `evaluate`, `convert`; settings, checks and folders are the commands'."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo.api.model import Model
from mmpo.api.pairs import Pairs, fingerprint, folder_of, is_dataset, pairs_in
from mmpo.api.results import Built, Conversion, Evaluated, Trained
from mmpo.api.section import run
from mmpo.api.showing import showing
from mmpo.errors import Quarantined, UserError

if TYPE_CHECKING:
    from mmpo.runs import RunFolder

PAIRS = "pairs"
"""The step that writes pairs from memory, and its folder in the run."""


def build(model: Model | str | Path | None = None, *, out: str | Path | None = None, **settings: Any) -> Built:
    """Make preference pairs: what `mmpo build` does with the `build:` section of a recipe.

    Args:
        model: the model whose own mistakes the pairs correct: a folder, a name, or a loaded `Model` (of which the
            folder is used). None for builders that need none.
        out: the run folder; by default a new `runs/build-TIME`. Called again on the same one, a stopped build continues
            and a finished one is returned.
        settings: the keys of `build:`, for example `annotations`, `limit`, `builder` (docs/recipes.md lists them).

    Returns: `Built`, with the folder of `pairs` and a table of them.

    Raises: one `UserError` for all mistakes in the settings and what they name, before anything starts; also where no
    source gave a pair.
    """
    named = {} if model is None else {"model": _folder_name(model, "build")}
    folder, result = run("build", {**named, **settings}, called="build", out=out)
    pairs = folder.path / "build" / "pairs"
    if not result["images_used"]:
        raise UserError("the build made no pairs", hint=f"the reasons are in {pairs / 'rejects.jsonl'}")
    return Built(folder.path, pairs, result)


def train(
    model: Model | str | Path,
    pairs: Pairs,
    *,
    images: str | Path | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Trained:
    """Train a LoRA adapter on preference pairs: what `mmpo train` does with the `train:` section of a recipe.

    Args:
        model: a folder, a name, or a loaded `Model` (of which the folder is used; its adapter is not).
        pairs: a folder of pairs, `PreferencePair`s, or a `datasets.Dataset` in TRL's form: `images`, `prompt`,
            `chosen`, `rejected`, conversational or plain. Pairs from memory are written to `RUN/pairs` first; rows
            that can't be used are in its `rejects.jsonl`.
        images: the folder in which image paths of pairs from memory start; by default the current one.
        out: the run folder; by default a new `runs/train-TIME`. Called again on the same one, a stopped training goes
            on at its last checkpoint, to the same weights, and a finished one is returned.
        settings: the keys of `train:`, for example `objective="dpo"` or `{"dpo": {"beta": 0.1}, "sft": {}}`,
            `learning_rate`, `max_steps`, `batch_size`, `lora={"rank": 8}` (docs/training.md).

    Returns: `Trained`, with the `adapter`'s folder and the metrics as a table.

    Raises: one `UserError` for all mistakes in the settings and what they name, before anything starts; also where no
    pair is left to train on, and for a run folder that holds another training.
    """
    from mmpo.trainers.settings import TrainResult

    if isinstance(settings.get("objective"), str):
        settings["objective"] = {settings["objective"]: {}}
    if isinstance(settings.get("objective"), Mapping):
        settings["objective"] = {name: value or {} for name, value in settings["objective"].items()}
    given: dict[str, Any] = {"model": _folder_name(model, "train"), **settings}
    source = folder_of(pairs)
    if source is not None:
        if images is not None:
            raise UserError("mmpo.train: a folder of pairs has its images in itself", hint="leave images out")
        folder, result = run("train", {**given, "pairs": str(source)}, called="train", out=out)
    else:
        written = _Written(pairs, Path(images) if images is not None else Path())
        given["pairs"] = "${run}/" + PAIRS
        folder, result = run("train", given, called="train", out=out, before=written.into)
    return Trained(folder.path, folder.path / "train" / result["adapter"], TrainResult.model_validate(result))


def evaluate(
    model: Model | str | Path,
    benchmarks: Sequence[str] | str,
    *,
    adapter: str | Path | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Evaluated:
    """Measure hallucination: what `mmpo eval` does with the `eval:` section of a recipe.

    Args:
        model: a loaded `Model`, which is asked as it is, or a folder or name, which is loaded.
        benchmarks: names such as "pope", "chair", "amber" (docs/evaluators.md lists them, and what each needs).
        adapter: the folder of an adapter; with one, everything is asked before (adapter off) and after. A loaded
            `Model` brings its own.
        out: the run folder; by default a new `runs/evaluate-TIME`. Called again on the same one, only answers that are
            missing are asked.
        settings: the keys of `eval:`, for example `images`, `annotations`, `limit`, `pope={"splits": ["random"]}`.

    Returns: `Evaluated`, with the `scorecard` and a table of its metrics (fractions, with 95% intervals).

    Raises: one `UserError` for all mistakes in the settings and what they name, before anything is asked.
    """
    from mmpo.eval.statistics.scorecard import Scorecard

    named = [benchmarks] if isinstance(benchmarks, str) else benchmarks
    with ExitStack() as stack:
        if isinstance(model, Model):
            if adapter is not None:
                raise UserError("mmpo.evaluate: an adapter beside a loaded model", hint="mmpo.load(MODEL, adapter=…)")
            given = stack.enter_context(model.lent())
            if clash := [name for name in given if name in settings and settings[name] != given[name]]:
                asked = f"{clash[0]}={settings[clash[0]]!r}"
                raise UserError(
                    f"mmpo.evaluate: {asked}, but the model is loaded with {given[clash[0]]!r}",
                    hint=f"mmpo.load(…, {asked})",
                )
        else:
            given = {"model": _folder_name(model, "evaluate"), "adapter": None if adapter is None else str(adapter)}
        folder, result = run("eval", {**given, "benchmarks": named, **settings}, called="evaluate", out=out)
    return Evaluated(folder.path, Scorecard.model_validate(result))


def convert(source: str | Path, out: str | Path, **options: Any) -> Conversion:
    """Convert preference data between formats: what `mmpo convert` does.

    Args:
        source: a file, or a folder of files.
        out: the folder to write.
        options: those of `mmpo.data.convert.convert`, for example `out_format="trl"`, `source_format` (found from the
            rows where it is left out; docs/convert.md lists the formats), `images`, `media`, `split`, `overwrite`.

    Returns: `Conversion`, with the account of all rows.

    Raises: one `UserError` for all mistakes, before anything is written; also where no row could be used.
    """
    from mmpo.data.convert import convert as run_conversion
    from mmpo.preflight.commands import examine_convert

    call = signature(run_conversion).bind(Path(source), Path(out), **options)
    call.apply_defaults()
    for text in examine_convert(**{name: value for name, value in call.arguments.items() if name != "ignore"}):
        warnings.warn(text, stacklevel=2)
    with showing():
        account = run_conversion(*call.args, **call.kwargs)
    if not account.kept:
        raise UserError(f"{source}: no row could be used", hint=f"{out}/rejects.jsonl says why")
    return Conversion(Path(out), account)


def _folder_name(model: Model | str | Path, called: str) -> str:
    if isinstance(model, Model):
        return model.source
    if isinstance(model, str | Path):
        return str(model)
    raise UserError(f"mmpo.{called}: model must be a Model, a path or a name, not {type(model).__name__}")


class _Written:
    """Pairs from memory as a step of a run: `RUN/pairs`, made from their content and nothing else."""

    def __init__(self, pairs: Any, images: Path) -> None:
        from mmpo.runs import process_count

        if process_count() > 1:
            raise UserError(
                "mmpo.train: several processes train on a folder of pairs, not on pairs in memory",
                hint="write them once with mmpo.convert, or a PairWriter, and give the folder",
            )
        self._pairs = pairs if is_dataset(pairs) or not isinstance(pairs, Iterator) else list(pairs)
        self._images = images
        self._left_out: list[tuple[str, Quarantined]] = []
        self._digest = fingerprint(
            pairs_in(self._pairs, images, lambda name, error: self._left_out.append((name, error)))
        )

    def into(self, folder: RunFolder) -> None:
        """Write them, unless they are there."""
        from mmpo.data.shards import PairWriter

        step = folder.step(PAIRS)

        def work() -> Mapping[str, Any]:
            with PairWriter(step.path, recipe={"pairs": self._digest}, images=self._images) as writer:
                if not writer.sources_done:
                    for name, error in self._left_out:
                        writer.reject(name, error)
                done = max(0, writer.sources_done - len(self._left_out))
                for pair in islice(pairs_in(self._pairs, self._images, lambda *_: None), done, None):
                    try:
                        writer.add(pair)
                    except Quarantined as error:
                        writer.reject(pair.id, error)
            counts = writer.counts
            return {"pairs": counts.pairs, "left_out": counts.rejected, "reasons": dict(counts.reasons)}

        made = step.do({"pairs": self._digest}, work)
        if not made["pairs"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in made["reasons"].items()) or "there are none"
            raise UserError(f"mmpo.train: no pair can be used ({reasons})", hint=f"see {step.path}/rejects.jsonl")
        if made["left_out"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in made["reasons"].items())
            warnings.warn(
                f"{made['left_out']} rows were left out ({reasons}); see {step.path}/rejects.jsonl", stacklevel=5
            )
