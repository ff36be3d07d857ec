"""Answers that policy and reference write to a few prompts of the pairs, scored under both: how far the policy has
gone, how long it has become, and whether answers grow that are neither the chosen nor the rejected one."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import PairDataset
from mmpo.diagnose.displacement import unseen_growth
from mmpo.diagnose.drift import SampledDivergence, ScoredSample, divergence
from mmpo.diagnose.measure import IMAGE_CACHE_BYTES, encode, row_of
from mmpo.diagnose.settings import DiagnoseSettings
from mmpo.models.families.loading import VLM
from mmpo.models.generation.answer import Answer, AnswerEngine
from mmpo.models.scoring.score import PairScorer
from mmpo.trainers.collate import EncodedPair, PairCollator
from mmpo.trainers.images import ImageStore


@dataclass(frozen=True)
class WrittenAnswer:
    """One sampled answer: `by` whom (policy or reference), its number of tokens, its log-probs under both, whether it
    was cut at the limit, and whether it is one of the pair's own responses (`known`)."""

    row: int
    by: str
    text: str
    tokens: int
    policy: float
    reference: float
    truncated: bool
    known: bool


@dataclass(frozen=True)
class SampledAnswers:
    """What the sampled answers say: the divergence on the policy's own, mean numbers of tokens before and after, shares
    cut at the limit, and the mean growth of what is neither (nats; None where every answer was one of the pair's).
    Those `unscored` hold a picture's placeholder, or are about pairs that can't be used."""

    prompts: int
    answers: int
    unscored: int
    divergence: SampledDivergence
    tokens_before: float
    tokens_after: float
    truncated_before: float
    truncated_after: float
    growth: float | None
    growth_prompts: int


def drawn_prompts(dataset: PairDataset, rows: Sequence[int], settings: DiagnoseSettings) -> list[int]:
    """Rows to answer: about a picture, asked by a user; none with videos. Drawn by the seed, from up to some hundreds
    that are looked at."""
    order = list(rows)
    random.Random(f"{settings.seed}/samples").shuffle(order)
    found: list[int] = []
    for row in order[: 16 * settings.prompts]:
        pair = dataset[row]
        if pair.images and not pair.videos and pair.prompt[-1]["role"] == "user":
            found.append(row)
            if len(found) == settings.prompts:
                break
    return sorted(found)


class Sampler:
    """Writes and scores the answers. The model must have an adapter."""

    def __init__(self, vlm: VLM, settings: DiagnoseSettings) -> None:
        self._vlm, self._settings = vlm, settings
        vlm.model.eval()
        self._engine = AnswerEngine(vlm, max_new_tokens=settings.max_new_tokens)
        self._scorer = PairScorer(vlm, reference="adapter_off")

    def __call__(self, dataset: PairDataset, rows: Sequence[int]) -> list[WrittenAnswer]:
        """The answers to the prompts of these rows; none for rows that can't be used."""
        store = ImageStore(self._vlm, IMAGE_CACHE_BYTES, self._settings.max_pixels)
        pairs = {row: dataset[row] for row in rows}
        encoded, _ = encode(self._vlm, self._settings, store, dataset.folder, rows, list(pairs.values()))
        if not len(encoded):
            return []
        asked = [(one, pairs[row_of(one)]) for one in encoded.rows]
        after = self._written(store, asked)
        with self._engine.adapter_off():
            before = self._written(store, asked)
        found: list[WrittenAnswer] = []
        for (row, pair), ours, theirs in zip(asked, after, before, strict=True):
            found += self._scored(row, pair, ours, theirs, PairCollator(store))
        return found

    def _written(self, store: ImageStore, asked: Sequence[tuple[EncodedPair, PreferencePair]]) -> list[list[Answer]]:
        prompts = (([store.picture(key) for key in row.images], pair.prompt) for row, pair in asked)
        return list(self._engine.sample_many(prompts, self._settings.samples, seed=self._settings.seed))

    @torch.no_grad()
    def _scored(
        self,
        row: EncodedPair,
        pair: PreferencePair,
        ours: Sequence[Answer],
        theirs: Sequence[Answer],
        collate: PairCollator,
    ) -> Iterator[WrittenAnswer]:
        visual = set(self._vlm.visual_token_ids)
        written = [("policy", one) for one in ours] + [("reference", one) for one in theirs]
        # a placeholder in an answer stands for a picture that is not there
        usable = [(by, one) for by, one in written if one.token_ids and not visual & set(one.token_ids)]
        if not usable:
            return
        ids = [torch.tensor(one.token_ids, dtype=torch.int32) for _, one in usable]
        # each on both sides of a pair of its own: equal paths are computed once
        made = [EncodedPair(row.id, row.prompt, own, own, None, None, row.images) for own in ids]
        side = self._scorer(collate(made)["batch"].to(self._vlm.device)).chosen
        assert side.reference is not None
        policy, reference = (values.double().sum(dim=-1).tolist() for values in (side.policy, side.reference))
        said = {pair.chosen_text.strip(), pair.rejected_text.strip()}
        for k, (by, one) in enumerate(usable):
            yield WrittenAnswer(
                row_of(row), by, one.text, len(one.token_ids), policy[k], reference[k], one.truncated, one.text in said
            )


def summarize(answers: Sequence[WrittenAnswer], asked: int) -> SampledAnswers | None:
    """Of the answers that could be scored, of the `asked` ones; None where one of the models has none."""
    own = {by: [one for one in answers if one.by == by] for by in ("policy", "reference")}
    if not all(own.values()):
        return None
    prompts: dict[int, dict[str, WrittenAnswer]] = {}
    for one in answers:
        prompts.setdefault(one.row, {})
        if not one.known and not one.truncated:  # the beginning of an answer is many answers
            prompts[one.row].setdefault(one.text, one)
    growths = [
        unseen_growth([one.policy for one in texts.values()], [one.reference for one in texts.values()])
        for texts in prompts.values()
        if texts
    ]

    def mean(by: str, field: str) -> float:
        return math.fsum(float(getattr(one, field)) for one in own[by]) / len(own[by])

    return SampledAnswers(
        len(prompts),
        len(answers),
        asked - len(answers),
        divergence([ScoredSample(one.policy, one.reference, one.tokens) for one in own["policy"]]),
        mean("reference", "tokens"),
        mean("policy", "tokens"),
        mean("reference", "truncated"),
        mean("policy", "truncated"),
        math.fsum(growths) / len(growths) if growths else None,
        len(growths),
    )
