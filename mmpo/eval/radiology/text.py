"""Similarity of two reports as text: BLEU and ROUGE through sacrebleu and rouge-score, temporal words, BERTScore.

None of these knows whether a report is right: they are for before and after on the same references.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from mmpo.errors import UserError
from mmpo.packages import BERT_SCORE, ROUGE_SCORE, SACREBLEU, require

BLEU_ORDER = 4

TEMPORAL = frozenset(
    re.findall(
        r"\w+",
        "bigger change cleared constant decrease decreased decreasing elevated elevation enlarged enlargement "
        "enlarging expanded greater growing improved improvement improving increase increased increasing "
        "larger new persistence persistent persisting progression progressive reduced removal resolution "
        "resolved resolving smaller stability stable stably unchanged unfolded worse worsen worsened "
        "worsening unaltered",
    )
)
"""The keywords of temporal entity F1 (Bannur et al. 2023, BioViL-T, arXiv 2301.04558)."""


def bleu_counts(answer: str, reference: str) -> list[int]:
    """Matched and total n-grams, n = 1 to 4, then both lengths: [10] counts that add up over reports. Tokenized by
    sacrebleu's 13a, lower case.
    """
    score = _bleu().corpus_score([answer], [[reference]])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def bleu(counts: Any) -> Any:
    """Corpus BLEU-4, fraction, of summed `bleu_counts` [..., 10]; 0 where some n-gram length never matches."""
    counts = np.asarray(counts, dtype=float)
    matched, total = counts[..., :BLEU_ORDER], counts[..., BLEU_ORDER : 2 * BLEU_ORDER]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(total > 0, matched / np.maximum(total, 1), 0.0)
        mean = np.exp(np.log(np.where(precision > 0, precision, 1.0)).mean(-1))
        said, given = counts[..., -2], counts[..., -1]
        brevity = np.where(said >= given, 1.0, np.exp(1 - given / np.maximum(said, 1)))
    return np.where((precision > 0).all(-1), mean * brevity, 0.0)


def rouge(answer: str, reference: str) -> dict[str, float]:
    """F-measures rouge1, rouge2, rougeL, without stemming."""
    return {name: score.fmeasure for name, score in _rouge().score(reference, answer).items()}


def temporal_f1(answer: str, reference: str, eps: float = 1e-10) -> float:
    """F1 of the sets of temporal keywords; 1 where neither has any. It falls when references are suppressed, so it
    shows the effect and is no quality score.
    """
    ours, theirs = (TEMPORAL & set(re.findall(r"[a-z]+", text.lower())) for text in (answer, reference))
    if not ours and not theirs:
        return 1.0
    common = len(ours & theirs)
    precision, recall = (common + eps) / (len(ours) + eps), (common + eps) / (len(theirs) + eps)
    return 2 * precision * recall / (precision + recall)


def bert_score(
    answers: Sequence[str], references: Sequence[str], model: str = "distilroberta-base", *, rescale: bool = True
) -> list[float]:
    """BERTScore F1 of each report (Zhang et al. 2020, arXiv 1904.09675), as RadCliQ takes it. Needs bert-score and
    the encoder's weights on this machine; raises UserError that says which is missing.
    """
    require("BERTScore", BERT_SCORE)
    import bert_score as package

    try:
        found = package.score(
            list(answers), list(references), model_type=model, lang="en", rescale_with_baseline=rescale
        )
    except OSError as error:
        raise UserError(f"BERTScore: the weights of {model} are not on this machine", hint=str(error)[:200]) from None
    return [float(value) for value in found[2]]


@cache
def _bleu() -> Any:
    require("BLEU", SACREBLEU)
    from sacrebleu.metrics import BLEU

    return BLEU(lowercase=True, tokenize="13a")


@cache
def _rouge() -> Any:
    require("ROUGE", ROUGE_SCORE)
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
