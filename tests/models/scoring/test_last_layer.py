"""The last layer computed where it is read: the same log-probs and gradients, for a layer's work less."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmpo.models.scoring import segment_logps as segments
from mmpo.models.scoring.last_layer import read_last_layer_only_where_needed
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import segment_logps, shared_row
from mmpo.models.tree.layout import response_tree
from mmpo.types import Hidden
from tests.models.pairs import gradients, mixed_batch, worst_relative
from tests.tiny import add_lora
from tests.tiny_families import TINY


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that name no rows: every layer computes everything."""
    real = segments.pack

    def whole(*args: Any, **kwargs: Any) -> Any:
        layout = real(*args, **kwargs)
        layout.plan.read = None
        return layout

    monkeypatch.setattr(segments, "pack", whole)


def rows_of(scorer: PairScorer, batch: Any) -> dict[str, list[int]]:
    """How many rows go through parts of the last layer and of the one before, in each pass."""
    layers = scorer._vlm.base.get_decoder().layers
    seen: dict[str, list[int]] = {}
    handles = []
    for name, layer in (("before", layers[-2]), ("last", layers[-1])):
        parts = {"keys": layer.self_attn.k_proj, "out": layer.self_attn.o_proj.base_layer, "up": layer.mlp.up_proj}
        for part, module in parts.items():
            rows = seen.setdefault(f"{name} {part}", [])
            handles.append(module.register_forward_hook(lambda _m, a, _o, rows=rows: rows.append(a[0].shape[-2])))
    scorer(batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", TINY)
def test_the_same_numbers_in_every_family(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = add_lora(TINY[name](), spread=0.1)
    scorer = PairScorer(vlm, sharing="on")
    batch = mixed_batch(vlm)
    seen = rows_of(scorer, batch)
    found = scorer(batch)
    own = gradients(vlm, found)
    without(monkeypatch)
    whole = rows_of(scorer, batch)
    everything = scorer(batch)
    for side, other in ((found.chosen, everything.chosen), (found.rejected, everything.rejected)):
        torch.testing.assert_close(side.policy, other.policy, rtol=0, atol=1e-5)
        torch.testing.assert_close(side.reference, other.reference, rtol=0, atol=1e-5)
    assert worst_relative(own, gradients(vlm, everything)) < 1e-4
    tokens = whole["last up"][0]
    scored = int(found.chosen.mask.sum() + found.rejected.mask.sum())
    assert whole == {key: [tokens] * 2 for key in whole}
    assert seen["last keys"] == seen["before up"] == seen["before out"] == [tokens] * 2
    # Besides each scored token what predicts the first of its response.
    assert seen["last up"] == seen["last out"] and max(seen["last up"]) <= scored + 2 * len(batch) < tokens / 2


def test_one_response_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole tree is one causal call, whose first queries are left out."""
    vlm = add_lora(TINY["llava"](), spread=0.1)
    PairScorer(vlm, sharing="on")
    tree = response_tree(range(10, 40), [range(50, 58)])
    found = []
    for read in (True, False):
        layout = shared_row(vlm, [tree])
        assert layout.plan is not None and layout.plan.unread == [29]
        layout.plan.read = layout.plan.read if read else None
        logps = segment_logps(vlm, layout, None).logps
        weight = vlm.base.get_decoder().layers[0].self_attn.k_proj.lora_B["default"].weight
        found.append((logps.detach(), torch.autograd.grad(logps.sum(), weight)[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("span", ["response", "sequence"])
def test_states_that_an_objective_reads_are_there(span: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = add_lora(TINY["llava"](), spread=0.1)
    scorer = PairScorer(vlm, sharing="on", hidden=Hidden(layer=-1, span=span))
    batch = mixed_batch(vlm)
    found = scorer(batch).chosen.policy_hidden
    seen = rows_of(scorer, batch)
    assert (seen["last up"] < seen["before up"]) == (span == "response")
    without(monkeypatch)
    torch.testing.assert_close(found, scorer(batch).chosen.policy_hidden, rtol=0, atol=1e-5)


def test_a_copy_of_the_model_is_a_model_of_its_own() -> None:
    """Nothing in the copy leads back to the original's weights."""
    vlm = add_lora(TINY["llava"](), spread=0.1)
    scorer = PairScorer(vlm, sharing="on", reference="none")
    batch = mixed_batch(vlm)
    before = scorer(batch).chosen.policy.detach()
    twin = copy.deepcopy(scorer)
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(batch).chosen.policy, before, rtol=0, atol=0)


def test_a_layer_that_somebody_else_changed_is_left_alone() -> None:
    vlm = TINY["llava"]()
    layer: Any = vlm.base.get_decoder().layers[-1]
    layer.self_attn.forward = lambda *args, **kwargs: type(layer.self_attn).forward(layer.self_attn, *args, **kwargs)
    assert not read_last_layer_only_where_needed(vlm.base.get_decoder())
    assert not hasattr(layer.mlp, "reading")
    assert not read_last_layer_only_where_needed(SimpleNamespace(layers=[nn.Linear(2, 2)]))  # type: ignore[arg-type]
