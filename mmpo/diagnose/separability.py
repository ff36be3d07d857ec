"""Can a linear classifier tell chosen from rejected without knowing the question? Where it can almost always, a policy
may learn that difference instead of what the pairs are about.

The classifier is the style probe's: logistic regression, all pairs about one picture in one fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from pydantic import BaseModel, Field

from mmpo.data.pair import PreferencePair
from mmpo.data_builders.hallucination.style_probe import (
    FOLDS,
    Features,
    FixedFeatures,
    Separation,
    out_of_fold,
    resample_weights,
    separation,
    surface_features,
)
from mmpo.diagnose.table import MeanStates

RESAMPLED = 300
"""Resamples of the pictures that the intervals rest on."""


class Separability(BaseModel):
    """How well each kind of feature tells the sides apart."""

    pairs: int
    images: int
    states: Separation = Field(description="The model's last hidden states, mean over the response.")
    surface: Separation = Field(description="Length, punctuation, word and character n-grams.")
    length: Separation = Field(description="The number of words alone.")


def separability(
    pairs: Mapping[int, PreferencePair], states: Mapping[int, MeanStates], *, seed: int = 0
) -> Separability | None:
    """Of the pairs that have mean states, by row; None where they are about fewer than `FOLDS` pictures. The same pairs
    give the same numbers."""
    rows = sorted(set(pairs) & set(states))
    about = [_pictures(pairs[row]) for row in rows]
    images = sorted(set(about))
    if len(images) < FOLDS:
        return None
    place = {image: number for number, image in enumerate(images)}
    groups = np.repeat([place[image] for image in about], 2)
    labels = np.tile([1, 0], len(rows))
    texts = [text for row in rows for text in (pairs[row].chosen_text, pairs[row].rejected_text)]
    vectors = np.stack([side for row in rows for side in (states[row].chosen, states[row].rejected)])
    words = np.array([[len(text.split())] for text in texts], dtype=float)
    kinds: dict[str, Features] = {
        "states": partial(_standardized, values=vectors.astype(np.float64)),
        "surface": partial(surface_features, texts=texts),
        "length": partial(_standardized, values=words),
    }
    weights = resample_weights(len(images), seed)[: RESAMPLED + 1, groups]
    found = {
        name: separation(out_of_fold(features, labels, groups), labels, weights) for name, features in kinds.items()
    }
    return Separability(pairs=len(rows), images=len(images), **found)


def _standardized(fitted: np.ndarray, values: np.ndarray) -> FixedFeatures:
    deviation = values[fitted].std(axis=0)
    return FixedFeatures((values - values[fitted].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0))


def _pictures(pair: PreferencePair) -> str:
    """A name for what a pair shows; a pair that shows nothing is alone."""
    shown: Sequence[object] = [*pair.images, *(pair.rejected_images or ()), *(pair.videos or ())]
    if not shown:
        return f"pair {pair.id}"
    return hashlib.blake2b(repr(shown).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
