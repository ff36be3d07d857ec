"""Choice of a model from a run folder or from names, checked before it is loaded. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.models.folder import check_adapter, check_fit, find_model, no_such_model
from mmpo.preflight.things import check_vision_model


@dataclass(frozen=True)
class ModelChoice:
    """A model, its adapter if any, and further arguments of `mmpo.load`."""

    model: str
    adapter: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises `UserError` for a model or adapter that is missing, damaged, a pickle, or doesn't fit the other."""
        folder = find_model(self.model)
        if folder is None:
            raise no_such_model(self.model)
        check_vision_model(folder, self.model, trust_remote_code=self.options.get("trust_remote_code", False))
        if self.adapter is not None:
            check_adapter(self.adapter)
            check_fit(self.adapter, folder, self.model)


def chosen(run: Path | None, model: str | None, adapter: str | None) -> ModelChoice:
    """The model that a command names: that of a run with the adapter it trained, or `model` with `adapter`.

    Raises `UserError` where neither or both are given, and for a run without a finished training.
    """
    if run is None:
        if model is None:
            extra = "--adapter alone: which model was it trained on?" if adapter else "no model named"
            raise UserError(extra, hint="--run RUN for a run that trained, or --model MODEL, with --adapter ADAPTER")
        return ModelChoice(model, adapter)
    if model is not None or adapter is not None:
        raise UserError("--run beside --model or --adapter", hint="a run names its model and its adapter itself")
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder", hint="mmpo run and mmpo train print theirs")
    from mmpo.trainers.export import finished

    training = finished(run)
    settings = training.settings
    options = {name: getattr(settings, name) for name in ("dtype", "quantize", "video_input", "trust_remote_code")}
    return ModelChoice(settings.model, str(training.adapter), options)
