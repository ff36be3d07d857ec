"""What objectives read besides the policy's log-probs, one record each: the one list that the registry, the trainer,
preflight and the docs go by. Nothing that no loss of a run reads is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Readable:
    """One thing that a loss may read; `code` is its short name in tables. `live`: numbers of a model that can't be kept
    beside the pairs, so that a cached reference does not do. `missing` is the remedy where it is not there."""

    name: str
    code: str
    what: str
    missing: str = ""
    live: bool = False


READS: Mapping[str, Readable] = {
    read.name: read
    for read in (
        Readable("reference", "ref", "the reference's log-prob of each token"),
        Readable("lengths", "len", "the number of scored tokens"),
        Readable(
            "weights",
            "w",
            "a weight of each token",
            "set token_weights, or use data with chosen_weights and rejected_weights",
        ),
        Readable(
            "scores", "sc", "numbers of each pair", "name the scores of your pairs: scores: {chosen: …, rejected: …}"
        ),
        Readable("kl", "kl", "KL(reference || policy) of each token's distributions", live=True),
        Readable("tail_kl", "tail", "the upper tail of that divergence", live=True),
        Readable("log_sum_squares", "sq", "log of the sum of squared probabilities at each token, of the policy"),
        Readable("eos", "eos", "the log-prob of the end token at each place, under both models", live=True),
        Readable("label_logits", "logit", "the logit of each token under the clean and the corrupted image", live=True),
        Readable("turns", "turns", "the number of the turn that each token belongs to"),
        Readable("steps", "steps", "the number of the step that each token belongs to, and a score of each step"),
        Readable(
            "segments", "segments", "the number of the segment that each token belongs to, and scores of each segment"
        ),
        Readable("positions", "pos", "drawn tokens of the longer response"),
        Readable(
            "second_reference", "ref2", "the log-prob of each token under a second reference", "set references.second"
        ),
        Readable("auxiliary", "aux", "answers to other questions", "set auxiliary.data"),
        Readable("samples", "samples", "responses that the reference wrote to the same prompt", "set samples_from"),
        Readable("groups", "group", "groups of scored responses", "set groups.data", live=True),
    )
}
