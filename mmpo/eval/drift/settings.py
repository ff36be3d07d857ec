"""Settings of drift: what is compared beside the benchmarks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmpo.eval.section import Section


class DriftSettings(Section):
    """Repetition, length, fixed texts, KL to the base: whether the model got worse at something else."""

    answers: bool = Field(
        default=True,
        description="Repetition, loops, diversity, length, cut and empty answers, share of yes: from the benchmarks' "
        "answers.",
    )
    texts: bool = Field(
        default=True, description="Perplexity of 50 shipped sentences, and of captions, with and without the adapter."
    )
    captions: int = Field(
        default=50, ge=0, description="Pictures whose first caption is such a text, where annotations have captions."
    )
    kl: bool = Field(default=True, description="KL to the base, both ways, on answers to 20 shipped prompts.")
    max_new_tokens: int = Field(default=64, ge=1, description="Length limit of the answers to these prompts.")
    seed: int = Field(default=0, description="Seed of the tuned model's samples.")
    units: Literal["words", "tokens"] = Field(
        default="words", description="Repetition and diversity of words, or of the model's tokens."
    )
    loops: Literal["suffix", "vlmevalkit"] = Field(
        default="suffix",
        description="A loop is an end of three or more copies of a block, or what VLMEvalKit calls a repetition.",
    )
