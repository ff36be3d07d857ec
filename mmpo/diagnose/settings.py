"""Settings of a diagnosis. No torch here: the command line imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from mmpo.data.video_input import VideoInput
from mmpo.settings import ADAPTER, MODEL, PAIRS, Settings

Costly = Literal["ches", "separability", "perception", "samples"]
"""What can be left out, as it takes hidden states, a second pass, or generation."""
COSTLY: tuple[Costly, ...] = get_args(Costly)


class HeldOut(Settings):
    """The pairs that a training held out of the same folder, which are found again in the way that it found them."""

    fraction: float = Field(gt=0, lt=1, description="`eval_fraction` of the training.")
    seed: int = Field(description="Its seed.")
    rejects: Path | None = Field(default=None, description="The pairs that it left out.")
    pairs: int = Field(ge=0, description="The number that it held out, to compare with.")


class DiagnoseSettings(Settings):
    """One diagnosis: which pairs, which model, and what of it."""

    FREE: ClassVar[frozenset[str]] = frozenset({"allow_network"})

    pairs: Annotated[Path, PAIRS] = Field(description="The folder of pairs.")
    model: Annotated[str, MODEL] = Field(description="Model folder or hub name.")
    adapter: Annotated[str | None, ADAPTER] = Field(
        default=None, description="An adapter that was trained on them. Left out: the pairs before a training."
    )
    also: dict[str, Annotated[Path, PAIRS]] = Field(
        default={}, description="Further folders of pairs, by name, that the adapter was not trained on."
    )
    eval_pairs: Annotated[Path | None, PAIRS] = Field(
        default=None, description="A folder of pairs of the same kind that the adapter was not trained on."
    )
    held_out: HeldOut | None = Field(default=None, description="The pairs that the training held out of `pairs`.")
    metrics: Path | None = Field(default=None, description="The training's metrics.jsonl, for its course.")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(default="auto", description="Number format of the weights.")
    quantize: Literal["none", "nf4"] = Field(default="none", description="As in training.")
    video_input: VideoInput = Field(default="auto", description="Whether a video is shown as one or as its frames.")
    trust_remote_code: bool = Field(default=False, description="Let the model's folder run its own code.")
    allow_network: bool = Field(default=False, description="Let the model be fetched from the hub.")
    max_response_tokens: int | None = Field(default=None, ge=1, description="As in training.")
    max_tokens: int | None = Field(default=None, ge=1, description="As in training.")
    max_pixels: int | None = Field(default=None, ge=1, description="As in training.")
    max_pixels_per_pair: int | None = Field(default=None, ge=1, description="As in training.")
    beta: float = Field(default=0.1, gt=0, description="DPO's beta, for the loss at which a pair flips.")
    betas: tuple[float, ...] = Field(
        default=(0.01, 0.1, 1.0, 5.0, 10.0), description="For the ranking accuracy that a reference allows."
    )
    agreement: float = Field(
        default=0.75, ge=0, le=1, description="The share of raters who would prefer the chosen response."
    )
    without: tuple[Costly, ...] = Field(default=(), description="What to leave out.")
    limit: int | None = Field(default=None, ge=1, description="At most so many pairs of each folder, drawn by `seed`.")
    batch_size: int = Field(default=8, ge=1, description="Pairs computed together.")
    masked: float = Field(default=0.6, gt=0, le=1, description="The share of a masked picture that is hidden.")
    prompts: int = Field(default=32, ge=1, description="Prompts to which both models write answers of their own.")
    samples: int = Field(default=4, ge=1, description="Answers to each prompt.")
    max_new_tokens: int = Field(default=64, ge=1, description="The longest of these, in tokens.")
    probe_pairs: int = Field(default=1000, ge=5, description="Pairs that the test of separability is made on.")
    seed: int = Field(default=0, description="Decides what is drawn.")

    @field_validator("without")
    @classmethod
    def _in_one_order(cls, value: tuple[Costly, ...]) -> tuple[Costly, ...]:
        return tuple(name for name in COSTLY if name in value)
