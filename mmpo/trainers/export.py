"""The result of a run in a folder of its own: the adapter, or the model with the adapter merged into it, each with a
model card.

A merged model is read back from the disk and must give the log-probs that model and adapter gave together.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

import mmpo
from mmpo import plugins
from mmpo.errors import UserError
from mmpo.files.atomic import read_json, read_sealed, replacing_folder, write_text
from mmpo.locks import announce, locked
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.prompts import encode_response
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.trainers.settings import TrainResult, TrainSettings

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Nats per token by which a merged model may differ: adding the update rounds every weight to the model's own number
format."""

_QUESTION = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the image in one sentence."}]}
]
_ANSWERS = (
    "A dog lies on the grass beside a red ball.",
    "There is no animal in this image.",
    "Two people sit at a table with three cups and a plate of bread.",
)


@dataclass(frozen=True)
class Exported:
    """The export. For a merged model: its `difference` from model and adapter together, and the `effect` of the
    adapter, both the largest over a few answers, in nats per token."""

    folder: Path
    merged: bool
    difference: float | None = None
    effect: float | None = None


def export(run: Path, out: Path, *, merge: bool = False) -> Exported:
    """Write the adapter of a finished `run` (a run folder, or its `train` folder) into the new folder `out`; with
    `merge` the whole model instead. Raises `UserError` where there is no finished training, where `out` is in use, or
    where the merged model does not do what model and adapter did."""
    training = finished(run)
    with locked(out, beside=True) as before:
        announce(out, before)
        check_unused(out)
        return _export(training, out, merge)


@dataclass(frozen=True)
class Finished:
    """A training that came to its end: its folder, its settings, its result, its adapter."""

    folder: Path
    settings: TrainSettings
    result: TrainResult

    @property
    def adapter(self) -> Path:
        return self.folder / self.result.adapter


def finished(run: Path) -> Finished:
    """The training in a run folder (or in its `train` folder), of several rounds the last that is finished. Raises
    `UserError` where there is none."""
    rounds = sorted((len(path.name), path.name, path) for path in run.glob("train-*"))
    found = [run / "train", *(path for *_, path in rounds), run]
    train = next((path for path in reversed(found[:-1]) if (path / "train_result.json").is_file()), run)
    if not (train / "train_result.json").is_file():
        raise UserError(f"{run}: no finished training in it", hint="give the run folder of `mmpo train` or `mmpo run`")
    settings = TrainSettings.model_validate(read_json(train / "settings.json"))
    return Finished(train, settings, TrainResult.model_validate(read_json(train / "train_result.json")))


def import_plugins(training: Finished) -> None:
    """Import the plug-ins that took part in a training: the record of the model's family may be one's."""
    step = training.folder / "step.json"
    for module in read_sealed(step)["settings"].get("plugins", {}) if step.is_file() else ():
        plugins.load(module)


def check_unused(out: Path) -> None:
    """Raises `UserError` unless `out` is a new or empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is in use", hint="name a new or empty folder")


def _export(training: Finished, out: Path, merge: bool) -> Exported:
    train, settings, result, adapter = training.folder, training.settings, training.result, training.adapter
    with replacing_folder(out) as partial:
        if merge:
            import_plugins(training)
            difference, effect = _merge(settings, adapter, partial)
            exported = Exported(out, True, difference, effect)
        else:
            for file in adapter.iterdir():
                if file.is_file() and file.name not in ("README.md", "training_args.bin"):
                    shutil.copyfile(file, partial / file.name)  # not its mode: what is exported is meant for others
            exported = Exported(out, False)
        write_text(partial / "README.md", card(train, settings, result, exported))
    return exported


def _merge(settings: TrainSettings, adapter: Path, folder: Path) -> tuple[float, float]:
    """Write the merged model in the number format of the stored model; returns (`difference`, `effect`)."""

    def load(source: str | Path, with_adapter: Path | None = None) -> VLM:
        return load_vlm(
            source,
            adapter=with_adapter,
            dtype="auto",
            trust_remote_code=settings.trust_remote_code,
            allow_network=settings.allow_network and with_adapter is not None,
        )

    vlm = load(settings.model, adapter)
    before = _scores(vlm)
    with vlm.adapter_off():
        base = _scores(vlm)
    del vlm
    vlm = load(settings.model, adapter)  # once more: scoring has switched the attention
    model: Any = vlm.model.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    dtype = vlm.dtype
    del vlm, model
    merged = load(folder)
    after = _scores(merged)
    difference, effect = (max(abs(a - b) for a, b in zip(before, other, strict=True)) for other in (after, base))
    if not difference <= TOLERANCE.get(dtype, 5e-2):
        raise UserError(
            f"the merged model differs from model and adapter by {difference:.3g} nats per token",
            hint="use the adapter as it is: mmpo export without --merge",
        )
    return difference, effect


def _scores(vlm: VLM) -> list[float]:
    """Log-probs per token of a few answers about a drawn picture."""
    picture = Image.linear_gradient("L").resize((336, 336)).convert("RGB")
    scores = score_responses(vlm, _QUESTION, [picture], _ANSWERS)
    return [score / len(encode_response(vlm, text)) for score, text in zip(scores, _ANSWERS, strict=True)]


# --- the model card -------------------------------------------------------------------------------------------------


def card(train: Path, settings: TrainSettings, result: TrainResult, exported: Exported) -> str:
    """A model page as the Hugging Face hub shows it: how to load it, data, recipe, results."""
    local = Path(settings.model).exists()
    header: dict[str, Any] = {
        "library_name": "transformers" if exported.merged else "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["mmpo", "preference-optimization", *settings.objective, *([] if exported.merged else ["lora"])],
    }
    if not local:
        header = {"base_model": settings.model, **header}
    base = Path(settings.model).name if local else settings.model
    lines = [f"---\n{yaml.safe_dump(header, sort_keys=False)}---", f"# {exported.folder.name}", ""]
    what = "with the adapter merged into it" if exported.merged else "as a LoRA adapter"
    lines += [f"{base}, trained on preference pairs by mmpo {mmpo.__version__}, {what}.", "", *_usage(base, exported)]
    lines += [
        "",
        "## Data",
        "",
        *_data(settings, result),
        "",
        "## Recipe",
        "",
        "```yaml",
        _recipe(train, settings),
        "```",
    ]
    lines += ["", "## Results", "", *_results(train, result)]
    if exported.difference is not None:
        lines += [
            "",
            f"Read back from disk, the merged model's log-probs differ from those of model and adapter by at most "
            f"{exported.difference:.1g} nats per token on a few answers; the adapter changes them by up to "
            f"{exported.effect:.2g}.",
        ]
    versions = train.parent / "versions.json"
    if versions.is_file():
        found = {name: value for name, value in read_json(versions).items() if name != "platform"}
        lines += ["", "Made with " + ", ".join(f"{name} {value}" for name, value in found.items()) + "."]
    return "\n".join(lines) + "\n"


def _usage(base: str, exported: Exported) -> list[str]:
    name = exported.folder.name
    load = ["from transformers import AutoModelForImageTextToText, AutoProcessor", ""]
    if exported.merged:
        load += [f'model = AutoModelForImageTextToText.from_pretrained("{name}")']
        load += [f'processor = AutoProcessor.from_pretrained("{name}")']
    else:
        load.insert(0, "from peft import PeftModel")
        load += [f'model = AutoModelForImageTextToText.from_pretrained("{base}")']
        load += [f'model = PeftModel.from_pretrained(model, "{name}")']
    return ["```python", *load, "```"]


def _data(settings: TrainSettings, result: TrainResult) -> list[str]:
    lines = [f"- trained on {result.pairs:,} pairs, {result.eval_pairs:,} held out"]
    if result.dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.dropped.items())
        lines.append(f"- pairs not used: {reasons}")
    if result.truncated or result.scaled_images:
        lines.append(f"- {result.truncated:,} responses cut, {result.scaled_images:,} images scaled down")
    if result.auxiliary:
        lines.append(f"- besides them {result.auxiliary:,} auxiliary samples")
    if result.groups:
        lines.append(f"- besides them {result.groups:,} groups of scored responses")
    file = settings.pairs / "card.json"
    if file.is_file():
        found = read_json(file)
        for split, entry in found.get("splits", {}).items():
            lines.append(
                f"- {found.get('title', 'the data set')}, split {split}: {entry['pairs']:,} pairs from "
                f"{entry['kept']:,} of {entry['sources']:,} sources (recipe `{entry['recipe_hash']}`)"
            )
    return lines


def _recipe(train: Path, settings: TrainSettings) -> str:
    recipe = train.parent / "recipe.yaml"
    if recipe.is_file():
        return recipe.read_text(encoding="utf-8").rstrip()
    dumped = yaml.safe_dump({"train": settings.model_dump(mode="json", exclude_defaults=True)}, sort_keys=False)
    return str(dumped).rstrip()


def _results(train: Path, result: TrainResult) -> list[str]:
    lines = [f"{result.steps:,} steps, {result.epochs:g} epochs, {result.trainable_parameters:,} trained parameters."]
    first, last = result.first_eval or {}, result.last_eval or {}
    rows = [(name, first.get(name), last[name]) for name in ("eval_loss", "eval_rewards/accuracies") if name in last]
    if rows:
        lines += ["", "| held-out pairs | before | after |", "| --- | ---: | ---: |"]
        lines += [f"| {name} | {'' if a is None else f'{a:.3f}'} | {b:.3f} |" for name, a, b in rows]
    scorecard = train.parent / train.name.replace("train", "eval", 1) / "scorecard.md"
    if scorecard.is_file():
        lines += ["", scorecard.read_text(encoding="utf-8").strip()]
    return lines
