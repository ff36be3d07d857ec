"""The drift section of a scorecard, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.drift.answers import (
    TokenReader,
    answer_rows,
    brief,
    drift_row,
    drift_rows,
    requests_in,
    sums_by_unit,
    yes_rows,
)
from mmpo.eval.drift.likelihood import bits_a_byte, perplexity
from mmpo.eval.drift.limits import judged
from mmpo.eval.drift.measuring import KLRow, Measured, TextRow
from mmpo.eval.protocol import Part, Request, Response
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.compare import Bootstrap, compare
from mmpo.eval.statistics.drift import Drift, DriftRow, Reading, Unmeasured
from mmpo.eval.statistics.tally import Metric, Tally, share
from mmpo.statistics import Array, ratio

_LOGP, _TOKENS, _BYTES = range(3)
ANSWERS = "repetition and length of answers"


class DriftReport:
    """Gathers the checks of an evaluation, a benchmark at a time."""

    def __init__(self, settings: EvalSettings, measured: Measured, bootstrap: Bootstrap) -> None:
        self._settings, self._measured, self._bootstrap = settings, measured, bootstrap
        self._rows: list[DriftRow] = []
        self._unmeasured = list(measured.unmeasured)
        self._tokens: TokenReader | None = None
        if not settings.drift.answers:
            self._unmeasured.insert(0, Unmeasured(what=ANSWERS, why="switched off (eval.drift.answers)"))
            return
        try:
            self._tokens = token_reader(settings)
        except UserError as error:
            instead = "; words are counted instead" if settings.drift.units == "tokens" else ""
            self._unmeasured.append(Unmeasured(what="lengths in tokens", why=error.message + instead))

    def add(
        self,
        benchmark: str,
        requests: Iterable[Request],
        responses: Mapping[Any, Mapping[Request, Response]],
        scored: Mapping[Any, Sequence[Part]],
    ) -> None:
        """Look at one benchmark's answers, and at what was read of them."""
        if not self._settings.drift.answers:
            return
        given = requests_in(requests, responses)
        if given["after"]:
            self._rows += answer_rows(benchmark, given, self._settings.drift, self._tokens, self._bootstrap)
        self._rows += yes_rows(benchmark, scored, self._bootstrap)

    def done(self) -> Drift:
        """The section."""
        found = self._measured
        texts = [row for row in found.texts if not row.caption], [row for row in found.texts if row.caption]
        rows = [*self._rows]
        for own, ending, label in zip(texts, ("", "-captions"), ("sentences", "captions"), strict=True):
            rows += text_rows(own, ending, label, self._bootstrap)
        rows += kl_rows(found.forward, found.reverse, self._bootstrap)
        return Drift(
            rows=brief(rows),
            unmeasured=self._unmeasured,
            prompts=found.prompts,
            texts=[row.id for row in found.texts],
            notes=found.notes,
        )


def token_reader(settings: EvalSettings) -> TokenReader:
    """The tokenizer of the evaluated model, which is not loaded for it."""
    from mmpo.models.families.opening import open_processor

    tokenizer = open_processor(settings.model, trust_remote_code=settings.trust_remote_code).tokenizer

    def cut(text: str) -> list[str]:
        return [str(token) for token in tokenizer.encode(text, add_special_tokens=False)]

    return TokenReader(cut, len(tokenizer))


def text_rows(texts: Sequence[TextRow], ending: str, label: str, bootstrap: Bootstrap) -> list[DriftRow]:
    """Perplexity and bits a byte of fixed texts, with the ratio of the perplexities."""
    if not texts:
        return []

    def tally(logps: Sequence[float]) -> Tally:
        counts = [[logp, row.tokens, row.utf8_bytes] for logp, row in zip(logps, texts, strict=True)]
        images, sums = sums_by_unit([row.id for row in texts], np.array(counts))
        return Tally(images, sums, metrics)

    metrics = (
        Metric(
            f"perplexity{ending}",
            lambda c: perplexity(c[..., _LOGP], c[..., _TOKENS]),
            "neither",
            "exp(−log-prob / tokens) of texts that nobody trained on; it rises where ordinary language is forgotten",
            percent=False,
            label=f"perplexity of {label}",
        ),
        Metric(
            f"bits-a-byte{ending}",
            lambda c: bits_a_byte(c[..., _LOGP], c[..., _BYTES]),
            "neither",
            "−log2-prob / bytes of the same texts, which compares models with other tokenizers",
            percent=False,
            label=f"bits a byte of {label}",
        ),
        Metric("nll", lambda c: -ratio(c[..., _LOGP], c[..., _TOKENS]), "neither", percent=False),
    )
    before, after = tally([row.before for row in texts]), tally([row.after for row in texts])
    *shown, nll = compare("drift", None, before, after, bootstrap)
    assert nll.change is not None
    change = nll.change  # of the logarithm of the perplexity
    times = Reading(value=math.exp(change.value), low=math.exp(change.low), high=math.exp(change.high))
    rows = [drift_row(None, row) for row in shown]
    return [judged(rows[0].model_copy(update={"ratio": times})), *rows[1:]]


def kl_rows(forward: Sequence[KLRow], reverse: Sequence[KLRow], bootstrap: Bootstrap) -> list[DriftRow]:
    """KL to the base, both ways, and the k3 estimate of the reverse one: nats a token over all answers."""
    rows = []
    for name, found, meaning in (
        ("forward", forward, "KL(base‖tuned) on the base's greedy answers, nats a token"),
        ("reverse", reverse, "KL(tuned‖base) on samples of the tuned model, nats a token"),
    ):
        if not found:
            continue
        counts: Array = np.array([[row.kl, row.k3 or 0.0, row.tokens] for row in found])
        metrics = [share(f"kl-{name}", 0, 2, "neither", meaning, percent=False, label=f"KL to base, {name}")]
        if all(row.k3 is not None for row in found):
            how = "the same, estimated from the samples' own tokens"
            metrics.append(share(f"kl-{name}-k3", 1, 2, "neither", how, percent=False, label=f"KL to base, {name}, k3"))
        units, sums = sums_by_unit([row.id for row in found], counts)
        rows += [judged(row) for row in drift_rows(None, None, Tally(units, sums, tuple(metrics)), bootstrap)]
    return rows
