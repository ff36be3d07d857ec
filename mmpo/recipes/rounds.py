"""The key `rounds` of a recipe: build, train and evaluate several times, each time with the model before."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mmpo.eval.stopping import StopSettings
from mmpo.settings import Settings

Start = Literal["previous", "base"]


class RoundsSettings(Settings):
    """Rounds of build, train and eval. A number alone, `rounds: 3`, is short for `rounds: {number: 3}`."""

    number: int = Field(ge=1, le=99, description="How many rounds, unless `stop` ends them before.")
    train_from: Start = Field(
        default="previous",
        description="previous: a round trains on from the model of the round before; base: a new adapter on the "
        "recipe's model every time, on pairs from the tuned one.",
    )
    reference: Literal["previous", "fixed"] = Field(
        default="previous",
        description="The reference of a round: the model of the round before (which wrote its descriptions), or always "
        "the recipe's own model.",
    )
    stop: StopSettings | None = Field(
        default_factory=StopSettings, description="What ends the rounds early; null: nothing does."
    )


def _short_form(value: Any) -> Any:
    return {"number": value} if isinstance(value, int) and not isinstance(value, bool) else value


SeveralRounds = Annotated[RoundsSettings, BeforeValidator(_short_form)]
