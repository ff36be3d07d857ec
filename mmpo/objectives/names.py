"""Other names under which papers, trainers and files of golden values know the objectives. Recipes take the main name.

No torch here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmpo.errors import UserError

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class OtherName:
    """What another name means: the objective `main` with `parameters`, and `plus` further terms of a sum. `renamed` are
    that name's parameters under ours; `term.parameter` belongs to a term of `plus`."""

    main: str
    parameters: Parameters = field(default_factory=dict)
    plus: Mapping[str, Parameters] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)


OTHER_NAMES: Mapping[str, OtherName] = {
    "ipo_sum": OtherName("ipo", {"average": False}),
    "gpo_exponential": OtherName("gpo", {"f": "exponential"}),
    "gpo_squared": OtherName("gpo", {"f": "squared"}),
    "gpo_truncated_quadratic": OtherName("gpo", {"f": "truncated"}),
    "gpo_savage": OtherName("gpo", {"f": "savage"}),
    "fdpo_forward_kl": OtherName("f_dpo", {"divergence": "forward_kl"}),
    "fdpo_js": OtherName("f_dpo", {"divergence": "jensen_shannon"}),
    "fdpo_alpha": OtherName("f_dpo", {"divergence": "alpha"}),
    "flex_dpo": OtherName("flex_dpo", renamed={"beta_pos": "beta", "beta_neg": "beta_rejected"}),
    "irpo": OtherName("dpo", plus={"sft": {"weight": 1.0}}, renamed={"alpha": "sft.weight"}),
    "rpo_sum": OtherName("rpo"),
    "span_weighted_dpo": OtherName("span_dpo"),
    "sigmoid": OtherName("dpo"),
    "sigmoid_norm": OtherName("ln_dpo"),
}

OF_SUMS: Mapping[str, OtherName] = {
    **OTHER_NAMES,
    "rdpo": OtherName("length_dpo"),
    "kto": OtherName("kto", renamed={"lam_d": "desirable", "lam_u": "undesirable", "kl": "z0"}),
}
"""Those of golden files that hold sums (`schema_version` 1), where `rdpo` is the length-regularized loss."""

AMBIGUOUS: Mapping[str, tuple[str, ...]] = {
    "apo": ("apo_zero", "apo_down"),
    "una": ("una_mse", "uft"),
    "tdpo": ("tdpo1", "tdpo2"),
}


@dataclass(frozen=True)
class Meant:
    """An objective of ours with its parameters, and further terms of a sum."""

    name: str
    parameters: Parameters
    plus: Mapping[str, Parameters] = field(default_factory=dict)

    @property
    def spec(self) -> dict[str, Any]:
        """As a recipe's `objective` says it."""
        return {self.name: dict(self.parameters), **{name: dict(given) for name, given in self.plus.items()}}


def resolve(
    name: str,
    known: Collection[str],
    parameters: Parameters | None = None,
    *,
    table: Mapping[str, OtherName] = OTHER_NAMES,
) -> Meant:
    """The objective that a name means, with its parameters under our names. Raises `UserError` for a name that is
    unknown, with the nearest ones, and for one that means several."""
    if name in AMBIGUOUS and name not in known:
        candidates = " or ".join(repr(one) for one in AMBIGUOUS[name])
        raise UserError(f"{name!r} is ambiguous: it may be {candidates}", hint=f"say {candidates}")
    other = table.get(name, OtherName(name))
    if other.main not in known:
        raise UserError(f"unknown objective {name!r}", hint=nearest_names(name, {*known, *table, *AMBIGUOUS}))
    own: dict[str, Any] = dict(other.parameters)
    plus = {term: dict(given) for term, given in other.plus.items()}
    for key, value in (parameters or {}).items():
        term, _, of_term = other.renamed.get(key, key).rpartition(".")
        (plus[term] if term in plus else own)[of_term] = value
    return Meant(other.main, own, plus)


def nearest_names(name: str, known: Collection[str]) -> str:
    """A hint that names those nearest to one that is unknown."""
    folded = name.lower().replace("-", "_")
    close = difflib.get_close_matches(folded, sorted(known), n=3)
    if not close:
        return "`mmpo objectives` lists them"
    return f"did you mean {' or '.join(repr(one) for one in close)}?"
