"""Groups of scored responses learnt beside the pairs, as many drawn for each pair as `train.groups` says.

They are drawn as auxiliary samples are (`mmpo.trainers.auxiliary`), from a stream of their own, and a group is drawn
as a whole. A step's loss is the mean over its groups, of a loss of single responses over its responses. What a group
must bring hangs on the losses: `GroupNeeds`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from mmpo.data.corruption import generator
from mmpo.data.image_digests import digests_of, shown_in
from mmpo.data.reader import holds_groups, read_groups, read_pairs, shard_paths
from mmpo.data.responses import ResponseGroup, groups_of_pairs
from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_response
from mmpo.models.scoring.pairs import AnswerBatch, PairBatch
from mmpo.objectives import Objective
from mmpo.objectives.stand_in import stand_in, takes_unscored
from mmpo.progress import track
from mmpo.trainers.auxiliary import Samples, encode_rows
from mmpo.trainers.collate import EncodedPair, OnReject
from mmpo.trainers.group_settings import GroupSettings, rate_of
from mmpo.trainers.images import ImageStore
from mmpo.trainers.media import RowMedia, pixel_tensors, prompt_ids
from mmpo.trainers.views.others import OtherAnswers
from mmpo.types import ResponseGroups

STAGE = "groups"


@dataclass(frozen=True)
class GroupNeeds:
    """What losses take: `single`, groups of one response; `unscored`, groups in which no response has a score;
    `mismatched_by`, the seed of the draw of the answers of others that they read, None for none."""

    single: bool = False
    unscored: bool = False
    mismatched_by: int | None = None

    @classmethod
    def of(cls, objective: Objective, seed: int) -> GroupNeeds:
        single = not objective.compares_responses
        return cls(single, single and takes_unscored(objective), seed if objective.reads_mismatched else None)

    def check(self, group: ResponseGroup) -> None:
        """`Quarantined` for a group that says nothing to the losses."""
        count, unscored = len(group.responses), group.unscored
        if count < 2 and not self.single:
            raise Quarantined(STAGE, "one_response", "a group compares two responses or more")
        if unscored and not (self.unscored and unscored == count):
            raise Quarantined(STAGE, "unscored", f"{unscored} of {count} responses have no score")


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """A group as token ids (int32), with the scores of its responses, NaN for none."""

    id: str
    prompt: Tensor
    responses: tuple[Tensor, ...]
    scores: tuple[float, ...]
    images: tuple[str, ...]

    def tokens(self, *, shared: bool) -> int:
        """The tokens that scoring computes; `shared`: the prompt once."""
        return len(self.prompt) * (1 if shared else len(self.responses)) + sum(map(len, self.responses))


class OtherResponses:
    """For each group an answer of another one, about other images: drawn from the seed and the group's id alone, as
    those of pairs are (`mmpo.trainers.views.others`). Raises `UserError` where all groups show the same."""

    def __init__(self, rows: Sequence[EncodedGroup], seed: int) -> None:
        self._seed, self._others = seed, OtherAnswers(rows, seed, of="group")

    def __call__(self, group: EncodedGroup) -> Tensor:
        """Its token ids."""
        among = self._others(group).responses
        return among[int(generator(self._seed, f"{group.id}#response", 0).integers(len(among)))]


@dataclass
class Groups:
    """Encoded groups with what was left out on the way."""

    rows: list[EncodedGroup]
    store: ImageStore
    settings: GroupSettings
    dropped: Counter[str] = field(default_factory=Counter)
    others: OtherResponses | None = None

    stage = STAGE

    def __len__(self) -> int:
        return len(self.rows)

    def rate(self, pairs: int) -> Fraction:
        """Groups for each of so many training pairs."""
        return rate_of(self.settings.per_pair, len(self), pairs)

    def collator(self, inner: Callable[..., dict[str, PairBatch]]) -> GroupCollator:
        return GroupCollator(inner, self.store, self.others)

    def largest(self, count: int, *, shared: bool) -> list[EncodedGroup]:
        """The groups that take most tokens, `count` of them (some twice, where there are fewer)."""
        ordered = sorted(self.rows, key=lambda row: -row.tokens(shared=shared))
        return [ordered[number % len(ordered)] for number in range(count)]

    def digest(self) -> str:
        """A fingerprint of what is learnt, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            digest.update(repr((row.id, row.images, row.scores)).encode())
            for ids in (row.prompt, *row.responses):
                digest.update(ids.numpy().tobytes() + b"/")
        return digest.hexdigest()


def read_scored(settings: GroupSettings) -> Iterator[ResponseGroup | tuple[str, Quarantined]]:
    """The groups of a folder of groups or of pairs; a pair that is no group comes as its id and the reason."""
    if not shard_paths(settings.data, "train"):
        raise UserError(
            f"{settings.data}: no folder of groups of responses, nor of pairs",
            hint="mmpo convert IN OUT --to responses makes one",
        )
    if not holds_groups(settings.data):
        yield from groups_of_pairs(read_pairs(settings.data), settings.scores)
    elif settings.scores is not None:
        raise UserError(
            f"{settings.data}: groups of responses bring their scores", hint="groups.scores is for a folder of pairs"
        )
    else:
        yield from read_groups(settings.data)


def group_digests(settings: GroupSettings) -> frozenset[str]:
    """The pictures of the groups, by their pixels (`mmpo.data.image_digests`)."""
    groups = (group for group in read_scored(settings) if isinstance(group, ResponseGroup))
    shown = (picture for group in groups for picture in shown_in(group.images, group.videos))
    return frozenset(digests_of(shown, settings.data))


def encode_groups(
    vlm: VLM,
    settings: GroupSettings,
    store: ImageStore,
    *,
    needs: GroupNeeds | None = None,
    max_response_tokens: int | None = None,
    on_reject: OnReject | None = None,
) -> Groups:
    """Tokenize every group and check every image. Left out, counted and passed to `on_reject`: groups of one response
    or with a response without score where the losses' `needs` do not take them, whose responses are the same after the
    cut, or too long, or with an image that can't be decoded. Raises `UserError` if nothing is left."""
    wanted = needs or GroupNeeds()
    rows, dropped = encode_rows(
        track(read_scored(settings), "reading groups"),
        lambda group: _encoded(vlm, store, group, settings, wanted, max_response_tokens),
        store,
        STAGE,
        f"{settings.data}: no group of responses to learn",
        on_reject,
    )
    others = None if wanted.mismatched_by is None else OtherResponses(rows, wanted.mismatched_by)
    return Groups(rows, store, settings, dropped, others)


def check_group_scores(objective: Objective, groups: Iterable[tuple[str, Sequence[float]]]) -> None:
    """Run the scores of all groups through the losses before a model has seen them. Raises `UserError` that names the
    group for a score with which a loss is undefined."""
    of_groups, blank = objective.without("pairs", "auxiliary"), stand_in(objective)
    assert blank.groups is not None
    row = blank.groups.responses
    for name, scores in groups:
        count = len(scores)
        many = replace(
            row, policy=row.policy.expand(count, -1), reference=-row.mask.float().expand(count, -1),
            mask=row.mask.expand(count, -1),
        )  # fmt: skip
        own = ResponseGroups(many, torch.zeros(count, dtype=torch.long), torch.tensor(scores), mismatched=row)
        try:
            of_groups.terms(replace(blank, groups=own))
        except UserError as error:
            raise UserError(f"group {name}: {error.message}", hint=error.hint) from None


def _encoded(
    vlm: VLM, store: ImageStore, group: ResponseGroup, settings: GroupSettings, needs: GroupNeeds, limit: int | None
) -> EncodedGroup:
    needs.check(group)
    media = RowMedia(vlm, store, group.videos, root=settings.data)
    messages = media.prompt(group.prompt)
    images = media.keys(group.prompt, group.images)
    if broken := store.broken([key for key in images if not vlm.family.fixed_image_size]):
        raise next(iter(broken.values()))  # the prompt can't be made without the picture
    prompt = torch.tensor(prompt_ids(vlm, store, messages, images), dtype=torch.int32)
    responses = [encode_response(vlm, response.text)[:limit] for response in group.responses]
    if len(responses) > 1 and all(response == responses[0] for response in responses):
        raise Quarantined(STAGE, "equal_responses", f"equal after {len(responses[0])} tokens")
    positions = getattr(vlm.config.get_text_config(), "max_position_embeddings", None)
    if positions and (longest := len(prompt) + max(map(len, responses))) > positions:
        raise Quarantined(STAGE, "too_long", f"{longest} tokens; the model has {positions} positions")
    scores = tuple(math.nan if one.score is None else float(one.score) for one in group.responses)
    ids = tuple(torch.tensor(response, dtype=torch.int32) for response in responses)
    return EncodedGroup(group.id, prompt, ids, scores, images)


def rate_beside(drawn: Samples | Groups, pairs: int, *, sharded: bool, alone: bool) -> Fraction:
    """Rows drawn for each of so many pairs. Raises `UserError` where a process or batch must not be without any:
    `sharded`, weights are cut up over processes; `alone`, there is no loss on the pairs."""
    rate = drawn.rate(pairs)
    what = f"{float(rate):.3g} {'groups of responses' if drawn.stage == STAGE else 'auxiliary samples'} a pair"
    if rate < 1 and sharded:
        raise UserError(
            f"{what}: a process may have none in a step, and where weights are cut up the others would wait for it for "
            "ever",
            hint=f"{drawn.stage}.per_pair: 1 or more, or train without FSDP and DeepSpeed",
        )
    if rate < 1 and alone:
        raise UserError(
            f"{what}: a batch may have none, and the objective is of nothing else",
            hint=f"{drawn.stage}.per_pair: 1 or more, or add a loss on the pairs",
        )
    return rate


class GroupCollator:
    """Pairs with their groups to one `PairBatch`; `inner` collates what the groups stand beside."""

    def __init__(
        self, inner: Callable[..., dict[str, PairBatch]], store: ImageStore, others: OtherResponses | None = None
    ) -> None:
        self._inner, self._store, self._others = inner, store, others

    def __call__(self, rows: Sequence[tuple[EncodedPair | Any, Sequence[EncodedGroup]]]) -> dict[str, PairBatch]:
        collated = self._inner([row for row, _ in rows])
        groups = group_batch([group for _, own in rows for group in own], self._store, self._others)
        return {**collated, "batch": replace(collated["batch"], groups=groups)}


def group_batch(groups: Sequence[EncodedGroup], store: ImageStore, others: OtherResponses | None = None) -> AnswerBatch:
    """Groups as the scorer reads them: an owner for each response; an image that several show is there once. Behind
    them, each group with the answer that `others` gives it."""
    position = {
        image: i for i, image in enumerate(dict.fromkeys(one for group in groups for one in store.shown(group.images)))
    }
    each = [(number, group, response) for number, group in enumerate(groups) for response in group.responses]
    if others is not None:
        each += [(-1, group, others(group)) for group in groups]
    return AnswerBatch(
        prompt_ids=[group.prompt.long() for _, group, _ in each],
        response_ids=[response.long() for *_, response in each],
        image_index=[[position[image] for image in store.shown(group.images)] for _, group, _ in each],
        owner=list(range(len(each))),
        image_inputs=pixel_tensors(store, list(position)),
        image_tokens=[store.placeholder_tokens(*image) for image in position],
        group=[number for number, *_ in each],
        scores=torch.tensor([score for group in groups for score in group.scores]),
    )
