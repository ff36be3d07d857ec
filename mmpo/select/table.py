"""The numbers of pairs that selectors see: a column each, whatever the pairs show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mmpo.select.margins import Numbers, Places

POLICY = ("policy_chosen", "policy_rejected")
REFERENCE = ("ref_chosen", "ref_rejected")
TOKENS = ("chosen_lengths", "rejected_lengths")
"""Scored tokens, end included."""
ALIGNMENT = ("chosen_alignment", "rejected_alignment")
"""mean_t (p_t - log sum_v pi(v)^2) under the policy, what WPO weighs pairs with."""
LOGPS = (*POLICY, *REFERENCE, *TOKENS, *ALIGNMENT)
"""Columns that scoring gives, the first six as `Model.score` names them: nats, summed over a response's tokens."""
WORDS = ("chosen_words", "rejected_words")
CHARACTERS = ("chosen_characters", "rejected_characters")
TEXT = (*WORDS, *CHARACTERS, "edit_distance", "unfinished", "prompt")
"""Columns that the text gives. `edit_distance`: words to change over the words of the longer side, 0 to 1; `unfinished`
0 or 1; `prompt` a number, the same for pairs with the same prompt and pictures."""
SCORES = "scores."
"""What a score's column begins with: `scores.NAME`."""


@dataclass(frozen=True)
class PairTable:
    """n pairs in the order of their folder: `columns` by name, [n] float64, NaN where a pair has no value. `prompts`
    [n] numbers the prompts, where asked for. `unscored` [n] says by a place in `reasons` why a pair has no log-probs
    (-1: it has)."""

    n: int
    columns: Mapping[str, Numbers]
    prompts: Places | None = None
    unscored: Places | None = None
    reasons: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Numbers:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def has(self, names: Iterable[str]) -> bool:
        return all(name in self.columns for name in names)

    def take(self, places: Places) -> PairTable:
        """The pairs at these places."""
        return replace(
            self,
            n=len(places),
            columns={name: values[places] for name, values in self.columns.items()},
            prompts=None if self.prompts is None else self.prompts[places],
            unscored=None if self.unscored is None else self.unscored[places],
        )

    # ---- margins: nats, chosen minus rejected

    def implicit(self, *, average: bool = False) -> Numbers:
        """D = (W - Wr) - (L - Lr), DPO's margin without beta; `average`: log-ratios by token."""
        chosen = self["policy_chosen"] - self["ref_chosen"]
        rejected = self["policy_rejected"] - self["ref_rejected"]
        return self._gap(chosen, rejected, average)

    def reference_gap(self, *, average: bool = True) -> Numbers:
        """d_r = Wr - Lr; `average`: by token."""
        return self._gap(self["ref_chosen"], self["ref_rejected"], average)

    def _gap(self, chosen: Numbers, rejected: Numbers, average: bool) -> Numbers:
        if not average:
            return chosen - rejected
        return chosen / np.maximum(self["chosen_lengths"], 1) - rejected / np.maximum(self["rejected_lengths"], 1)
