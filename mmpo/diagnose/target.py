"""What a diagnosis is of: a run that trained, which knows its pairs, its model and its adapter; or a folder of pairs
with a model that is named. Mistakes are found before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.data.reader import check_pairs, shard_paths
from mmpo.diagnose.settings import COSTLY, DiagnoseSettings
from mmpo.errors import UserError
from mmpo.models.folder import check_adapter, check_fit, find_model, no_such_model

FOLDER = "diagnose"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TAKEN = ("pairs", "held_out")
_AS_TRAINED = (
    "dtype", "quantize", "video_input", "trust_remote_code", "allow_network", "max_response_tokens", "max_tokens",
    "max_pixels", "max_pixels_per_pair",
)  # fmt: skip


@dataclass(frozen=True)
class DiagnoseTarget:
    """The settings of a diagnosis, and the folder that it goes into unless another is named."""

    settings: DiagnoseSettings
    folder: Path


def target(
    path: Path,
    *,
    model: str | None = None,
    adapter: str | None = None,
    also: Mapping[str, Path] | None = None,
    **options: Any,
) -> DiagnoseTarget:
    """The target that `path` is. `options` are further `DiagnoseSettings`; those that are None are left out.

    Raises `UserError` for a path that is neither, for a run without a finished training, for a model, an adapter or
    pairs that are missing, and for names of further folders that can't be used.
    """
    also = dict(also or {})
    chosen = {name: value for name, value in options.items() if value is not None}
    for name in also:
        if name in TAKEN or not NAME.fullmatch(name):
            raise UserError(
                f"--also {name}=…: {'this name is taken' if name in TAKEN else 'not a name'}",
                hint="letters, digits, _ . and -; for example --also other-prompts=FOLDER",
            )
    if not path.is_dir():
        raise UserError(
            f"{path}: {'a file' if path.exists() else 'no such folder'}; a run or a folder of pairs belongs here",
            hint="mmpo diagnose RUN, or mmpo diagnose PAIRS --model MODEL",
        )
    if shard_paths(path, "train"):
        if model is None:
            raise UserError(
                f"{path} holds pairs, and no model is named",
                hint="--model MODEL, with --adapter ADAPTER for one that was trained on them",
            )
        settings = DiagnoseSettings(pairs=path, model=model, adapter=adapter, also=also, **chosen)
        found = DiagnoseTarget(settings, path / FOLDER)
    else:
        found = _of_run(path, model, adapter, also, chosen)
    _check(found.settings)
    return found


def without(words: Sequence[str]) -> tuple[str, ...]:
    """Names of what to leave out, from words such as `perception,ches`."""
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    for name in names:
        if name not in COSTLY:
            raise UserError(f"--without {name}: no such part", hint=f"one or more of {', '.join(COSTLY)}")
    return tuple(names)


def _of_run(
    path: Path, model: str | None, adapter: str | None, also: Mapping[str, Path], chosen: Mapping[str, Any]
) -> DiagnoseTarget:
    trained = next((one for one in (path / "train", path) if (one / "train_result.json").is_file()), None)
    if trained is None:
        if (path / "recipe.yaml").is_file() or (path / "settings.json").is_file():
            built = path / "build" / "pairs"
            hint = "finish it: mmpo train … --out " + str(path)
            if shard_paths(built, "train"):
                hint = f"its pairs alone: mmpo diagnose {built} --model MODEL"
            raise UserError(f"{path}: a run without a finished training", hint=hint)
        raise UserError(
            f"{path}: neither a run that trained nor a folder of pairs",
            hint="mmpo diagnose RUN, or mmpo diagnose PAIRS --model MODEL",
        )
    if model is not None or adapter is not None:
        raise UserError(f"--model or --adapter beside the run {path}", hint="a run names its model and adapter itself")
    from mmpo.trainers.export import finished, import_plugins

    training = finished(path)
    import_plugins(training)
    own, result = training.settings, training.result
    values: dict[str, Any] = {name: getattr(own, name) for name in _AS_TRAINED}
    values |= {"eval_pairs": own.eval_pairs, "metrics": training.folder / "metrics.jsonl"}
    if own.eval_pairs is None and own.eval_fraction > 0 and result.eval_pairs:
        rejects = training.folder / "rejects.jsonl"
        values["held_out"] = {
            "fraction": own.eval_fraction, "seed": own.seed, "rejects": rejects, "pairs": result.eval_pairs,
        }  # fmt: skip
    if (beta := _beta(own.objective)) is not None:
        values["beta"] = beta
    settings = DiagnoseSettings(
        pairs=own.pairs, model=own.model, adapter=str(training.adapter), also=dict(also), **{**values, **chosen}
    )
    return DiagnoseTarget(settings, (path if trained != path else path.parent) / FOLDER)


def _beta(objective: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The first loss's own beta; None where it has none, or a schedule of it."""
    for parameters in objective.values():
        value = parameters.get("beta")
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def _check(settings: DiagnoseSettings) -> None:
    """Raises `UserError` for things that settings name and that are not there."""
    if settings.also and settings.adapter is None:
        raise UserError(
            "--also compares what an adapter has learnt, and there is none", hint="--adapter ADAPTER, or leave it out"
        )
    folders = [settings.pairs, *([settings.eval_pairs] if settings.eval_pairs else []), *settings.also.values()]
    for folder in folders:
        check_pairs(folder)
    folder_of_model = find_model(settings.model)
    if folder_of_model is None:
        if settings.allow_network:
            return
        raise no_such_model(settings.model)
    if settings.adapter is not None:
        check_adapter(settings.adapter)
        check_fit(settings.adapter, folder_of_model, settings.model)
