"""Checks of regularizers against the run's other settings. No torch here."""

from __future__ import annotations

from mmpo.trainers.settings import TrainSettings


def regularizer_problems(settings: TrainSettings) -> list[tuple[str, str, str]]:
    """(key of the `train` section, what is wrong, remedy) of every regularizer that the other settings rule out."""
    chosen = settings.regularizers
    if chosen is None:
        return []
    found: list[tuple[str, str, str]] = []
    if chosen.pego is not None and settings.quantize != "none":
        found.append(
            (
                "regularizers",
                "pego reads the weights below the adapter, which are quantized here",
                "quantize: none, or leave pego out",
            )
        )
    adapted = settings.lora.targets
    if chosen.pego is not None and isinstance(adapted, list) and (bare := set(chosen.pego.targets) - set(adapted)):
        found.append(
            (
                "regularizers",
                f"pego.targets: {', '.join(sorted(bare))} has no adapter",
                f"the adapted layers are {', '.join(adapted)}",
            )
        )
    if chosen.multi_sample_dropout is not None and settings.cache_reference:
        found.append(
            (
                "cache_reference",
                "multi_sample_dropout draws one mask for policy and reference; cached log-probs have none",
                "leave cache_reference out",
            )
        )
    if chosen.saf is not None and settings.max_steps is None and chosen.saf.epochs >= settings.epochs:
        found.append(
            (
                "regularizers",
                f"saf starts after {chosen.saf.epochs:g} epochs, and the run has {settings.epochs:g}",
                "fewer epochs there, or mesa, which starts at once",
            )
        )
    return found
