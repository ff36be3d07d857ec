"""Settings of the claims benchmark: a recipe's `eval.claims` section."""

from __future__ import annotations

from pydantic import Field

from mmpo.eval.section import Section


class ClaimsSettings(Section):
    """Objects, counts, colours and places in free descriptions.

    Words and vocabulary are those of `chair`.
    """

    prompt: str | None = Field(
        default=None,
        min_length=1,
        description="What the model is asked for each image. Empty: CHAIR's prompt, and both judge one description.",
    )
    max_new_tokens: int | None = Field(default=None, ge=1, description="Longest description. Empty: as for CHAIR.")
    exhaustive: bool = Field(
        default=False,
        description="The descriptions list everything they show, as the demo model's do: every number is exact, and "
        "`a car` is one car. Off: numbers are exact only where a sentence lists what is there.",
    )
