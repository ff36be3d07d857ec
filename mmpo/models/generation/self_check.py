"""Is sharing exact on this model? A few answers are made again with nothing shared and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmpo.models.families.loading import VLM
from mmpo.models.generation.generate import Continuation

# Whatever `model.generate` does besides taking the argmax: the name of each setting, and the value that does nothing.
# A repetition penalty is not among it: shared decoding applies that too (`choosing.RepetitionPenalty`).
_NEUTRAL: dict[str, Any] = {
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "stop_strings": None,
    "watermarking_config": None,
}


def plain_decoding(vlm: VLM) -> str:
    """Empty if the model's generation settings are plain greedy decoding, else the settings beyond it."""
    config = vlm.base.generation_config
    asked = [
        f"{name}={value!r}"
        for name, neutral in _NEUTRAL.items()
        if (value := getattr(config, name, None)) is not None and value != neutral
    ]
    return f"its generation_config asks for {', '.join(asked)}" if asked else ""


def tolerance(dtype: torch.dtype) -> float:
    """The difference of two logits that rounding alone explains."""
    return 1e-3 if dtype == torch.float32 else 0.25


@dataclass
class SelfCheck:
    """`asked` rows were made twice; `near_ties` differ where two tokens were within rounding, `different` really do."""

    asked: int = 0
    near_ties: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    @classmethod
    def run(
        cls,
        shared: Sequence[Continuation],
        alone: Callable[[int], tuple[Continuation, list[Tensor]]],
        size: int,
        dtype: torch.dtype,
    ) -> SelfCheck:
        """Compare `size` of the shared continuations, evenly spread, with `alone(row)`."""
        check = cls()
        rows = sorted({round(i * (len(shared) - 1) / max(size - 1, 1)) for i in range(min(size, len(shared)))})
        for row in rows:
            check.asked += 1
            expected, scores = alone(row)
            problem, close = compare(shared[row], expected, scores, tolerance(dtype))
            if problem:
                (check.near_ties if close else check.different).append(f"row {row}: {problem}")
        return check


def compare(shared: Continuation, alone: Continuation, scores: Sequence[Tensor], within: float) -> tuple[str, bool]:
    """The difference (empty if none) and whether it is only a near-tie. `scores[i]` [v] are step i's, made alone."""
    if shared.first is not None and alone.first is not None:
        moved = abs((shared.first[0] - shared.first[1]) - (alone.first[0] - alone.first[1]))
        if not moved <= within:
            return f"yes-no logit differs by {moved:.2g}", False
    for step, (a, b) in enumerate(zip(shared.token_ids, alone.token_ids, strict=False)):
        if a != b:
            lead = float(scores[step][b] - scores[step][a])
            return f"token {step} is {a} instead of {b}, which leads by {lead:.2g}", lead <= within
    if len(shared.token_ids) != len(alone.token_ids):
        return f"{len(shared.token_ids)} tokens instead of {len(alone.token_ids)}", False
    return "", False
