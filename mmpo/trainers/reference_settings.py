"""Settings of a run's references other than the model without its adapter. No torch here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from mmpo.settings import ADAPTER, MODEL, Settings


class OtherReferenceSettings(Settings):
    """A reference other than the model without its adapter; it stays as it is."""

    adapter: Annotated[str | None, ADAPTER] = Field(
        default=None, description="Adapter folder: the model with this adapter is the reference (Pre-DPO's guide)."
    )
    model: Annotated[str | None, MODEL] = Field(
        default=None, description="Model folder or hub name, of the same kind: this model is the reference."
    )

    @model_validator(mode="after")
    def _one(self) -> OtherReferenceSettings:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            them = f"needs one of {', '.join(type(self).model_fields)}"
            raise ValueError(f"{them}, and has {' and '.join(given)}" if given else them)
        return self


class MovingReferenceSettings(Settings):
    """TR-DPO (arXiv 2404.09656): every `every` steps the reference becomes mix x policy + (1 - mix) x reference."""

    mix: float = Field(default=0.6, gt=0, le=1, description="Share of the policy; 1 copies it. The paper's alpha.")
    every: int = Field(default=512, ge=1, description="Optimizer steps from one move to the next.")

    @model_validator(mode="before")
    @classmethod
    def _alpha_is_mix(cls, given: Any) -> Any:
        if isinstance(given, dict) and "alpha" in given and "mix" not in given:
            return {"mix" if key == "alpha" else key: value for key, value in given.items()}
        return given


class ReferenceSettings(OtherReferenceSettings):
    """The reference, where it is not the model without its adapter."""

    moving: MovingReferenceSettings | None = Field(
        default=None, description="The reference starts as the model and follows the policy step by step (TR-DPO)."
    )


class FurtherReferenceSettings(Settings):
    """References beside the first."""

    second: OtherReferenceSettings = Field(description="The second reference of mrpo.")


BASE = BeforeValidator(lambda value: None if value == "base" else value)
"""Takes the word `base` for the default."""
