"""Selection of answers as rejected sides: the attention threshold, then MIA-DPO's filters afterwards. Pure functions
over what a build stored, so other values can be tried without a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from mmpo.chat.video_rules import polarity
from mmpo.data.pair import placeholder_in
from mmpo.data_builders.mia.ratio import chosen_part
from mmpo.data_builders.mia.settings import AttentionSettings, SelectionSettings

REFUSES = re.compile(r"(?:does not|doesn't) exist|\bno image ?\d|\bonly (?:provided )?\w+ images?\b", re.IGNORECASE)


def perplexity(top: Sequence[float]) -> float:
    """exp of minus the mean of each step's largest log-probability, all steps counted: MIA-DPO's released code. Equal
    to the answer's own perplexity under greedy decoding only."""
    return math.exp(-sum(top) / len(top)) if top else 1.0


def length_ratio(a: str, b: str) -> float:
    """Words of the longer text over those of the shorter (at least one each)."""
    low, high = sorted((max(1, len(a.split())), max(1, len(b.split()))))
    return high / low


def edit_distance(a: str, b: str) -> float:
    """Levenshtein distance in characters over the length of the longer text, 0 to 1."""
    return float(Levenshtein.normalized_distance(a, b))


def threshold(candidate: Mapping[str, Any], attention: AttentionSettings, selection: SelectionSettings) -> float | None:
    """The greatest ratio that a candidate may have; None where there is no threshold for its number of images."""
    if selection.times_uniform is not None:
        name = chosen_part(candidate["layout"], attention.sequence, attention.regions)
        return selection.times_uniform * float(candidate["parts"][name]["uniform"])
    return selection.threshold(candidate["layout"], candidate["n"])


def verdict(candidate: Mapping[str, Any], attention: AttentionSettings, selection: SelectionSettings) -> str:
    """Why a candidate is dropped; empty for one that is kept. The first reason in the order of the filters."""
    chosen, rejected = candidate["chosen"], candidate["rejected"]
    if not rejected.strip():
        return "empty"
    if placeholder_in(chosen) or placeholder_in(rejected):
        return "image_tag"
    if chosen == rejected:
        return "equal"
    if selection.drop_right and polarity(chosen) == polarity(rejected) != "":
        return "right"
    if candidate["refusal"]:
        if REFUSES.search(rejected):
            return "refuses_already"
    elif selection.attention and (reason := _looked(candidate, attention, selection)):
        return reason
    if selection.min_perplexity is not None and not candidate["perplexity"] > selection.min_perplexity:
        return "perplexity"
    if selection.max_length_ratio is not None and length_ratio(chosen, rejected) > selection.max_length_ratio:
        return "length_ratio"
    if selection.min_edit_distance is not None and edit_distance(chosen, rejected) < selection.min_edit_distance:
        return "edit_distance"
    if selection.max_rejected_characters is not None and len(rejected) > selection.max_rejected_characters:
        return "too_long"
    return ""


def _looked(candidate: Mapping[str, Any], attention: AttentionSettings, selection: SelectionSettings) -> str:
    if candidate["seen"] < selection.min_seen:
        return "target_cropped"
    if candidate["parts"] is None:
        return "no_attention"  # an answer of one token, without predictive rows
    limit = threshold(candidate, attention, selection)
    if limit is None:
        return "no_threshold"
    ratio = candidate["parts"][chosen_part(candidate["layout"], attention.sequence, attention.regions)]["ratio"]
    inclusive = candidate["layout"] == "sequence"  # as the released code compares
    return "" if ratio < limit or (inclusive and ratio == limit) else "attention"
