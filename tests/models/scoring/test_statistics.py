"""The numbers of single tokens that losses read, against whole distributions from the model's own forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_response
from mmpo.models.scoring.pairs import AnswerBatch, PairBatch, ViewResponses
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.statistics import STATISTICS, token_logits
from mmpo.objectives.reads import READS
from mmpo.objectives.stand_in import with_blanks
from mmpo.types import PairLogps, ResponseLogps, ScoringOptions, ViewSpec
from tests.models.pairs import mixed_batch
from tests.models.scoring.test_hidden import row_states
from tests.tiny import add_lora, tiny_llava

CORRUPTED = {side: ViewSpec(f"{side}_corrupted", side, image="corrupted") for side in ("chosen", "rejected")}
READ = ("tail_kl", "log_sum_squares", "eos", "label_logits")
OPTIONS = ScoringOptions(tail=0.9, eos_temperature=0.5)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return add_lora(tiny_llava(), spread=0.1)


@pytest.fixture(scope="module")
def batch(vlm: VLM) -> PairBatch:
    """Five pairs of different lengths, with both answers about another image as well."""
    batch = replace(mixed_batch(vlm), rejected_prompt_ids=None, rejected_image_index=None)
    other = [[1 - k for k in index] if len(index) == 1 and index[0] < 2 else index for index in batch.image_index]
    views = {
        CORRUPTED["rejected"]: ViewResponses(batch.prompt_ids, other, batch.rejected_ids),
        CORRUPTED["chosen"]: ViewResponses(batch.prompt_ids, other, batch.chosen_ids),
    }
    return replace(batch, views=views)


def score(vlm: VLM, batch: PairBatch, sharing: str = "on", reads: tuple[str, ...] = READ) -> PairLogps:
    scored: PairLogps = PairScorer(vlm, sharing=sharing, reads=reads, options=OPTIONS)(batch)  # type: ignore[arg-type]
    return scored


def logits(vlm: VLM, batch: PairBatch, i: int, *, adapter: bool, side: str = "chosen", image: str = "own") -> Tensor:
    """Those that predict the tokens of pair i's answer, [t, v], by the model's own forward."""
    index = batch.image_index if image == "own" else batch.views[CORRUPTED["chosen"]].image_index
    ids = batch.chosen_ids if side == "chosen" else batch.rejected_ids
    states = row_states(vlm, replace(batch, chosen_ids=ids, image_index=index), i, adapter=adapter)[-1]
    return vlm.head(states[len(batch.prompt_ids[i]) - 1 : -1]).double().detach()


def expected(vlm: VLM, batch: PairBatch, i: int, side: str) -> dict[str, Tensor]:
    ours, theirs = (logits(vlm, batch, i, adapter=adapter, side=side) for adapter in (True, False))
    corrupted = [logits(vlm, batch, i, adapter=adapter, side=side, image="corrupted") for adapter in (True, False)]
    p, q = ours.log_softmax(-1), theirs.log_softmax(-1)
    above = (q - p) > (q - p).quantile(1 - OPTIONS.tail, dim=-1, keepdim=True)
    ids = (batch.chosen_ids if side == "chosen" else batch.rejected_ids)[i][:, None]
    end = encode_response(vlm, "Yes")[-1]
    return {
        "tail_kl": (q.exp() * (q - p) * above).sum(-1),
        "log_sum_squares": p.exp().square().sum(-1).log(),
        "eos_policy": p[:, end],
        "eos_reference": (theirs / OPTIONS.eos_temperature).log_softmax(-1)[:, end],
        "label_logit": ours.gather(1, ids)[:, 0],
        "label_logit_corrupted": corrupted[0].gather(1, ids)[:, 0],
        "reference_label_logit": theirs.gather(1, ids)[:, 0],
        "reference_label_logit_corrupted": corrupted[1].gather(1, ids)[:, 0],
    }


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_each_statistic_is_that_of_the_whole_distribution(vlm: VLM, batch: PairBatch, sharing: str) -> None:
    scored = score(vlm, batch, sharing)
    for side, i in (("chosen", 1), ("rejected", 3)):
        response: ResponseLogps = getattr(scored, side)
        wanted = expected(vlm, batch, i, side)
        assert response.more.keys() == wanted.keys()
        for name, values in wanted.items():
            found = response.read(name)
            assert found.shape == response.policy.shape and not found[~response.mask].any(), f"{name}: padding"
            torch.testing.assert_close(
                found[i][response.mask[i]].detach().double(), values, atol=1e-4, rtol=1e-3, msg=name
            )


def test_shared_rows_and_plain_rows_agree_in_values_and_gradients(vlm: VLM, batch: PairBatch) -> None:
    differentiable = ("tail_kl", "eos_policy", "label_logit", "label_logit_corrupted")
    found = []
    for sharing in ("on", "off"):
        scored = score(vlm, batch, sharing)
        values = {
            f"{side} {name}": value
            for side, response in (("chosen", scored.chosen), ("rejected", scored.rejected))
            for name, value in response.more.items()
        }
        for name, value in values.items():
            assert value.requires_grad == (name.split()[1] in differentiable), name
        vlm.model.zero_grad()
        read = [(k + 1) * values[f"chosen {name}"].square().sum() for k, name in enumerate(differentiable)]
        torch.stack(read).sum().backward()
        gradients = {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}
        assert gradients
        found.append({**{name: value.detach() for name, value in values.items()}, **gradients})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-4, rtol=1e-3, msg=name)


def test_nothing_is_computed_that_is_not_read(vlm: VLM, batch: PairBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpo.models.scoring import score as scoring

    asked: list[dict[str, object]] = []
    original = scoring.segment_logps

    def noted(*given: Any, **options: Any) -> Any:
        asked.append(options)
        return original(*given, **options)

    monkeypatch.setattr(scoring, "segment_logps", noted)
    plain = score(vlm, batch, reads=("reference", "lengths", "scores"))
    assert plain.chosen.kl is None and not plain.chosen.more
    assert not any(options["states"] or options["best"] for options in asked)
    one = score(vlm, batch, reads=("log_sum_squares",))
    assert set(one.chosen.more) == {"log_sum_squares"} and one.chosen.kl is None
    assert not asked[-1]["best"], "the likeliest tokens are slow to find, and nobody reads them"
    torch.testing.assert_close(one.chosen.policy, plain.chosen.policy)


def test_what_needs_a_model_is_refused_where_there_are_numbers_alone(vlm: VLM, batch: PairBatch) -> None:
    for read, one in STATISTICS.items():
        assert READS[read].live == one.reference, read
        if one.reference:
            with pytest.raises(UserError, match=f"{read} needs the reference's distributions"):
                PairScorer(vlm, reference="none", reads=(read,))
    alone = PairScorer(vlm, reference="none", reads=("log_sum_squares",))(batch)
    torch.testing.assert_close(alone.chosen.read("log_sum_squares"), score(vlm, batch).chosen.read("log_sum_squares"))
    with pytest.raises(UserError, match="corrupted image"):
        score(vlm, replace(batch, views={}), reads=("label_logits",))


def test_auxiliary_answers_get_what_losses_read_of_them(vlm: VLM, batch: PairBatch) -> None:
    answers = AnswerBatch(
        batch.prompt_ids[:2], batch.chosen_ids[:2], batch.image_index[:2], [0, 1], batch.image_inputs,
        batch.image_tokens or [],
    )  # fmt: skip
    scored = score(vlm, replace(batch, auxiliary=answers), reads=("kl", "tail_kl", "log_sum_squares"))
    assert scored.auxiliary is not None and not scored.auxiliary.more and scored.auxiliary.kl is not None
    assert scored.chosen.kl is not None
    torch.testing.assert_close(
        scored.auxiliary.kl, scored.chosen.kl[:2, : scored.auxiliary.kl.shape[1]], atol=1e-5, rtol=1e-4
    )
    empty = score(vlm, replace(batch, auxiliary=replace(answers, owner=[])), reads=("kl",))
    assert empty.auxiliary is not None and empty.auxiliary.kl is not None and empty.auxiliary.kl.shape == (0, 0)


def test_a_second_reference_is_scored_on_the_same_tokens(vlm: VLM, batch: PairBatch) -> None:
    other = tiny_llava(5)
    scored = PairScorer(vlm, sharing="on", second=other.model, reads=("reference", "second_reference"))(batch)
    alone = PairScorer(tiny_llava(5), sharing="off", reference="none")(batch)
    for side, theirs in ((scored.chosen, alone.chosen), (scored.rejected, alone.rejected)):
        torch.testing.assert_close(side.read("second_reference"), theirs.policy.detach(), rtol=0, atol=1e-5)
    assert not scored.views[CORRUPTED["chosen"]].more
    with pytest.raises(UserError, match="second reference"):
        PairScorer(vlm, reads=("second_reference",))


def test_every_field_is_one_that_losses_are_tried_with(vlm: VLM, batch: PairBatch) -> None:
    one = torch.ones(1, 1)
    assert score(vlm, batch).chosen.more.keys() <= with_blanks(ResponseLogps(-one, -one, one.bool())).more.keys()


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("trainable", [False, True])
def test_the_logit_of_a_label_is_that_of_the_head(softcap: float | None, trainable: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 30).double().requires_grad_(trainable)
    start, targets, incoming = torch.randn(9, 6).double(), torch.randint(30, (9,)), torch.randn(9).double()
    found = []
    for whole in (False, True):
        hidden = start.clone().requires_grad_()
        head.zero_grad()
        every = head(hidden) if softcap is None else torch.tanh(head(hidden) / softcap) * softcap
        one = every.gather(1, targets[:, None])[:, 0] if whole else token_logits(hidden, head, targets, softcap)
        one.backward(incoming)
        found.append([one.detach(), hidden.grad, *(p.grad for p in head.parameters() if trainable)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
