from __future__ import annotations

import random

import pytest
import torch

from mmpo.models.families.loading import VLM
from mmpo.models.tree import segments as tree_module
from mmpo.models.tree.attention import CallPlan, dense_attention_mask, use_tree_attention
from mmpo.models.tree.layout import Segment, pack, response_tree, visibility
from tests.tiny import tiny_llava

TREES = {
    "pair": [response_tree(range(10, 20), [range(20, 25), range(30, 34)])],
    "two pairs": [
        response_tree(range(10, 20), [range(20, 25), range(30, 34)]),
        response_tree(range(40, 43), [range(50, 51), range(60, 69)]),
    ],
    "chain": [[Segment(range(10, 15)), Segment(range(20, 23), 0), Segment(range(30, 34), 1, scored=True)]],
    "many questions": [
        [Segment(range(10, 26)), *(Segment(range(30 + i, 36 + 2 * i), 0, scored=True) for i in range(6))]
    ],
    "deep": [
        [
            Segment(range(10, 20)),
            Segment(range(20, 24), 0),
            Segment(range(30, 33), 0),
            Segment(range(40, 42), 1, scored=True),
            Segment(range(50, 55), 1, scored=True),
            Segment(range(60, 63), 2, scored=True),
            Segment(range(70, 74), 5, scored=True),
        ]
    ],
}


def hidden_states(vlm: VLM, trees: list, *, dense: bool) -> torch.Tensor:
    """The language model over one packed row, by the fast calls or by the dense mask."""
    batch = pack(trees)
    inputs = batch.model_inputs
    if dense:
        vlm.base.set_attn_implementation({"text_config": "sdpa"})
        inputs.pop("tree_plan")
        inputs["attention_mask"] = dense_attention_mask([visibility(tree) for tree in trees], vlm.dtype)
    else:
        use_tree_attention(vlm.base)
    return vlm.backbone(**inputs, use_cache=False).last_hidden_state


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("call_queries", [512, 1])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "copied"])
def test_tree_calls_equal_the_dense_mask(
    vlm: VLM, name: str, call_queries: int, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "CALL_QUERIES", call_queries)
    monkeypatch.setattr(CallPlan, "in_place", property(lambda call: in_place and bool(call.ranges)))
    weight = vlm.base.get_decoder().layers[0].self_attn.k_proj.weight
    outputs, gradients = [], []
    for dense in (False, True):
        out = hidden_states(vlm, TREES[name], dense=dense)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad((out * direction).sum(), weight)
        outputs.append(out.detach())
        gradients.append(gradient)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=2e-5)
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < 1e-4


def test_random_trees_equal_the_dense_mask(vlm: VLM) -> None:
    rng = random.Random(0)
    for _ in range(10):
        tree = [Segment([rng.randrange(5, 300) for _ in range(rng.randint(1, 12))])]
        for node in range(1, rng.randint(2, 12)):
            ids = [rng.randrange(5, 300) for _ in range(rng.randint(1, 9))]
            tree.append(Segment(ids, rng.randrange(node), scored=True))
        with torch.no_grad():
            fast, slow = hidden_states(vlm, [tree], dense=False), hidden_states(vlm, [tree], dense=True)
        torch.testing.assert_close(fast, slow, rtol=0, atol=2e-5)


def test_without_a_plan_the_model_is_unchanged(vlm: VLM) -> None:
    """Generation and plain forwards go through the same function, padding included."""
    ids = torch.randint(5, 300, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    before = vlm.model(input_ids=ids, attention_mask=mask).logits
    use_tree_attention(vlm.base)
    after = vlm.model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(before, after)
    assert vlm.base.config.vision_config._attn_implementation != "mmpo_tree"


def test_dropping_the_plan_would_be_noticed(vlm: VLM) -> None:
    """The check can fail: one causal row over chosen and rejected gives other numbers than the tree."""
    use_tree_attention(vlm.base)
    batch = pack(TREES["pair"])
    causal = vlm.backbone(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    assert (causal - hidden_states(vlm, TREES["pair"], dense=False)).abs().max() > 0.1


def test_grouped_heads_and_plain_heads() -> None:
    vlm = tiny_llava(text={"num_key_value_heads": 4})
    fast, slow = (hidden_states(vlm, TREES["deep"], dense=dense) for dense in (False, True))
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-5)
