"""A loss's parameters, checked from its signature: names, types and ranges stand in the annotations and nowhere else.

    def ipo(pairs: PairLogps, *, tau: Positive = 0.1, average: bool = True) -> Term: ...

makes a pydantic model with the fields `tau`, `average` and, for every loss, `weight`, `ratio` and `times`. Numbers are
numbers: text, truth values, NaN and infinity are refused. In the place of a number may stand a schedule, `{from: 0.5,
to: 0.1, over: 0.8}`: it moves evenly from one to the other over that share of the run (all of it where `over` is left
out). Numbers that must be whole stay what they are. No torch here.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
FlipRate = Annotated[float, Field(ge=0, lt=0.5)]
"""The share of wrong labels."""
Smoothing = Annotated[float, Field(gt=0, lt=0.5)]
Count = Annotated[int, Field(ge=1)]
Few = Annotated[int, Field(ge=1, le=100)]
"""A number of renderings of each pair, every one of which is scored."""
Rounds = Annotated[int, Field(ge=1, le=10_000)]
"""A number of passes of a computation."""
WholeNumber = Annotated[int, Field(ge=0)]
AboveOne = Annotated[float, Field(gt=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]


class OwnParameters(BaseModel):
    """Parameters of a function alone."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Parameters(OwnParameters):
    """Parameters that a recipe may set for any loss. `mmpo.objectives.combinations` checks what `ratio` and `times`
    name."""

    weight: NonNegative = Field(default=1.0, description="Factor of the term in the sum of all.")
    ratio: Any = Field(default=None, description="Which tokens count, and how much: the name of a ratio.")
    times: Any = Field(default=None, description="Weights of pairs by name, whose product multiplies the losses.")


@cache
def parameters_of(function: Callable[..., Any], base: type[OwnParameters] = Parameters) -> type[OwnParameters]:
    """The model of a function's keyword-only parameters, and of those that all losses have. One without a default must
    be given."""
    hints = get_type_hints(function, include_extras=True)
    fields = {
        name: (hints.get(name, Any), ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    made: type[OwnParameters] = create_model(function.__name__, __base__=base, **fields)  # type: ignore[call-overload]
    return made


def resolved(value: Any, progress: float) -> Any:
    """A parameter after that share of the run: a schedule's number, also within a mapping; anything else as it is."""
    if not is_schedule(value):
        return {key: resolved(of, progress) for key, of in value.items()} if isinstance(value, Mapping) else value
    done = min(1.0, progress / value.get("over", 1.0))
    return value["from"] + (value["to"] - value["from"]) * done


def is_schedule(value: Any) -> bool:
    return isinstance(value, Mapping) and "from" in value


_SCHEDULE = "must be a number, or {from: NUMBER, to: NUMBER, over: SHARE} with a share of the run above 0, up to 1"


def mistakes(
    function: Callable[..., Any], values: Mapping[str, Any], base: type[OwnParameters] = Parameters
) -> dict[str, str]:
    """Mistakes in `values`: name -> `must be greater than 0 (it is -1)`; of unknown names, `unknown parameter`."""
    found: dict[str, str] = {}
    for end in ("from", "to"):
        plain = {}
        for name, value in values.items():
            if is_schedule(value):
                over = value.get("over", 1.0)
                wrong = set(value) - {"from", "to", "over"} or not (_is_number(over) and 0 < over <= 1)
                if wrong or not all(_is_number(value.get(key)) for key in ("from", "to")):
                    found[name] = f"{_SCHEDULE} (it is {value!r})"
                    continue
            # as a fraction: a parameter that must be whole has no numbers on the way
            plain[name] = float(value[end]) if is_schedule(value) else value
        found = {**_mistakes(function, plain, base), **found}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mistakes(function: Callable[..., Any], values: Mapping[str, Any], base: type[OwnParameters]) -> dict[str, str]:
    try:
        parameters_of(function, base).model_validate(dict(values))
    except ValidationError as error:
        found: dict[str, list[str]] = {}
        for mistake in error.errors():
            name = str(mistake["loc"][0])
            if mistake["type"] == "extra_forbidden":
                found[name] = ["unknown parameter"]
            else:
                found.setdefault(name, []).append(_expected(mistake))
        return {
            name: " or ".join(dict.fromkeys(wrong)) + ("" if name not in values else f" (it is {values[name]!r})")
            if wrong != ["unknown parameter"]
            else wrong[0]
            for name, wrong in found.items()
        }
    return {}


_TYPES = {
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "finite_number": "must be a finite number",
    "none_required": "must be null",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "missing": "must be given: it has no default",
}


def _expected(mistake: Any) -> str:
    if mistake["type"] == "literal_error":
        return f"must be {str(mistake['ctx']['expected']).replace(chr(39), '')}"
    message: str = _TYPES.get(mistake["type"]) or str(mistake["msg"]).replace("Input should be", "must be")
    return message[:1].lower() + message[1:]


def nearest(word: str, known: Collection[str]) -> str:
    """A hint for a name that is not among those known."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"one of {', '.join(sorted(known))}"
