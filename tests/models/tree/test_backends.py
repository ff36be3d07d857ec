"""Every back end of the tree attention gives what dense masks give: forward, gradients, checkpointing, all families.

FlexAttention refuses gradients on a CPU; its unfused form can compute them, so the tests lift that check. The kernel of
the variable-length call needs CUDA; here a loop over its sequences takes its place, so that what the call is told
(which queries, which keys, aligned how) is tested without one."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import rules_of, shared_row
from mmpo.models.tree import backends, kernels
from mmpo.models.tree.attention import use_tree_attention
from mmpo.models.tree.backends import choose_attention, kernel_error, kernel_problem, unsupported_reason
from mmpo.models.tree.kernels import Sequences
from mmpo.models.tree.layout import AttentionBackend, Segment, pack, response_tree, visibility
from mmpo.models.tree.segments import AttentionRules, depth_first, marks_of, sequences_of
from tests.models.pairs import gradients, mixed_batch, worst_relative
from tests.models.tree.test_attention import TREES
from tests.tiny import add_lora
from tests.tiny_families import TINY

REFUSED = {"varlen": ("gemma3", "paligemma", "paligemma2"), "flex": ("paligemma2",), "dense": ()}
# FlexAttention's unfused form takes seconds a family; these have every kind of mask.
QUICK = ("llava", "gemma3", "paligemma", "mistral3-window")
CASES = [
    pytest.param(name, backend, marks=[] if backend != "flex" or name in QUICK else [pytest.mark.slow])
    for backend in ("dense", "flex", "varlen")
    for name in TINY
    if name not in REFUSED[backend]
]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on CUDA only")


def loop(
    q: Tensor, k: Tensor, v: Tensor, fq: Tensor, fk: Tensor, mq: int, mk: int, scale: float | None, left: int
) -> Tensor:
    """What a variable-length kernel computes, one sequence after another."""
    out = []
    for i in range(len(fq) - 1):
        queries, keys = q[fq[i] : fq[i + 1]], slice(int(fk[i]), int(fk[i + 1]))
        last = torch.arange(len(queries)) + (keys.stop - keys.start) - len(queries)  # the key of a query's own token
        place = torch.arange(keys.stop - keys.start)
        seen = place <= last[:, None]
        if left >= 0:
            seen &= place >= last[:, None] - left
        assert len(queries) <= mq and len(place) <= mk
        parts = (t.transpose(0, 1)[None] for t in (queries, k[keys], v[keys]))
        one = F.scaled_dot_product_attention(*parts, attn_mask=seen, scale=scale, enable_gqa=True)
        out.append(one[0].transpose(0, 1))
    return torch.cat(out)


def aligned_at_the_first_key(
    q: Tensor, k: Tensor, v: Tensor, fq: Tensor, fk: Tensor, mq: int, mk: int, scale: float | None, left: int
) -> Tensor:
    """The other convention of causal masks: FlashAttention's before 2.1, and SDPA's `is_causal`."""
    out = []
    for i in range(len(fq) - 1):
        parts = (t.transpose(0, 1)[None] for t in (q[fq[i] : fq[i + 1]], k[fk[i] : fk[i + 1]], v[fk[i] : fk[i + 1]]))
        one = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scale, enable_gqa=True)
        out.append(one[0].transpose(0, 1))
    return torch.cat(out)


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.nn.attention.flex_attention as flex

    monkeypatch.setattr(flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # else each call is traced for seconds
    monkeypatch.setattr(kernels, "varlen_kernel", lambda: loop)


def on_cuda(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.bfloat16) -> None:
    """Models that say they are on a GPU."""
    monkeypatch.setattr(VLM, "device", torch.device("cuda"))
    monkeypatch.setattr(VLM, "dtype", dtype)


@pytest.mark.parametrize("trees", TREES)
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("backend", ["plain", "dense", "flex", "varlen"])
def test_one_layer_equals_its_dense_mask(trees: str, window: int | None, backend: AttentionBackend) -> None:
    """Against plain softmax under `visibility`, the definition; outputs and gradients, grouped heads."""
    from mmpo.models.tree.attention import tree_attention

    plan = pack(TREES[trees], rules=AttentionRules(window=window), backend=backend).plan
    assert plan is not None
    length = sum(plan.lengths)
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, length, 8, generator=draw, requires_grad=True) for h in (4, 2, 2))
    out, _ = tree_attention(torch.nn.Identity(), q, k, v, None, tree_plan=plan, sliding_window=window)
    rules = AttentionRules(window=window)
    seen = torch.block_diag(*[visibility(t, rules, windowed=window is not None).float() for t in TREES[trees]]).bool()
    scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2)) * 8**-0.5
    expected = (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    wanted = torch.randn(out.shape, generator=draw)
    for ours, theirs in zip(
        *(torch.autograd.grad((o * wanted).sum(), (q, k, v)) for o in (out, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_family_scores_alike(name: str, backend: AttentionBackend) -> None:
    """Log-probs of policy and reference, and gradients, with and without checkpointing, against plain rows."""
    vlm = add_lora(TINY[name](), spread=0.1)
    batch = mixed_batch(vlm)
    rows = PairScorer(vlm, sharing="off")(batch)
    expected = gradients(vlm, rows)
    scorer = PairScorer(vlm, sharing="on").train()
    scorer.backend = backend
    pairs = scorer(batch)
    torch.testing.assert_close(pairs.chosen.policy, rows.chosen.policy, rtol=0, atol=1e-5)
    torch.testing.assert_close(pairs.rejected.policy, rows.rejected.policy, rtol=0, atol=1e-5)
    torch.testing.assert_close(pairs.rejected.reference, rows.rejected.reference, rtol=0, atol=1e-5)
    assert worst_relative(gradients(vlm, pairs), expected) < 1e-4
    scorer.gradient_checkpointing_enable()
    assert worst_relative(gradients(vlm, scorer(batch)), expected) < 1e-4


@pytest.mark.parametrize("name", ["llava", "gemma3", "paligemma2", "mistral3-window"])
def test_marks_say_what_the_dense_masks_say(name: str) -> None:
    """Token by token, two trees in one row."""
    vlm = TINY[name]()
    batch = mixed_batch(vlm)
    trees = batch.shared(vlm.image_token_id, whole_prompts=vlm.family.blocks == "prompt").trees
    rules = rules_of(vlm)
    marks = kernels.Marks.join([marks_of(tree, depth_first(tree), rules) for tree in trees])
    place = torch.arange(len(marks.reach))
    none = torch.zeros(())
    for windowed in (False, True) if rules.window is not None else (False,):
        expected = torch.block_diag(*[visibility(t, rules, windowed=windowed).float() for t in trees]).bool()
        assert torch.equal(marks.visible(windowed=windowed)(none, none, place[:, None], place[None]), expected)
    assert (marks.block >= 0).any() == (vlm.family.blocks != "none")


def test_sequences_are_paths() -> None:
    """The spine is one sequence; every other segment reads the keys of its path, in order, and no others."""
    trees = [
        [Segment([1, 2, 3]), Segment([4, 5], 0, scored=True), Segment([6], 0), Segment([7, 8], 2, scored=True)],
        response_tree([9, 10], [[11], [12, 13]]),
    ]
    parts = [*sequences_of(trees[0], depth_first(trees[0])), *sequences_of(trees[1], depth_first(trees[1]), 8)]
    found = Sequences.of(parts)
    assert found.first_query.tolist() == [0, 5, 6, 8, 11, 13]
    assert found.first_key.tolist() == [0, 5, 9, 15, 18, 22]
    assert found.key_index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 0, 1, 2, 5, 6, 7, 8, 9, 10, 8, 9, 11, 12]
    assert (found.most_queries, found.most_keys) == (5, 6)
    assert found.first_query.dtype == found.first_key.dtype == torch.int32


def test_many_questions_about_one_image_are_not_copied_out() -> None:
    """Twenty short answers below a long prompt would take twenty copies of its keys."""
    few, many = (pack([response_tree(range(100), [range(2)] * n)], backend="varlen").plan for n in (3, 20))
    assert few is not None and few.sequences is not None and len(few.sequences.key_index) == 306
    assert many is not None and many.sequences is None and len(many.calls[0]) == 2


def test_the_plan_of_a_kernel_moves() -> None:
    for backend in ("flex", "varlen"):
        moved = pack(TREES["pair"], backend=backend).to("meta").plan  # type: ignore[arg-type]
        tensors = [t for part in (moved.marks, moved.sequences) if part is not None for t in vars(part).values()]
        assert {t.device.type for t in tensors if isinstance(t, Tensor)} == {"meta"}


def test_auto_on_a_cpu_is_plain(vlm: VLM) -> None:
    assert choose_attention("auto", vlm) == PairScorer(vlm).backend == "plain"
    assert PairScorer(vlm, attention="dense").backend == "dense"


@pytest.mark.parametrize(
    ("asked", "reason"), [("flex", "no backward pass on a CPU"), ("varlen", "CUDA only"), ("fast", "is unknown")]
)
def test_what_cannot_run_is_refused_with_the_reason(vlm: VLM, asked: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        PairScorer(vlm, attention=asked)  # type: ignore[arg-type]


def test_attention_without_sharing_is_refused(vlm: VLM) -> None:
    with pytest.raises(UserError, match="nothing is shared"):
        PairScorer(vlm, sharing="off", attention="dense")


def test_what_a_kernel_cannot_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda(monkeypatch)
    assert not unsupported_reason("varlen", TINY["llava"]()) and not unsupported_reason(
        "varlen", TINY["mistral3-window"]()
    )
    assert "images see themselves" in unsupported_reason("varlen", TINY["gemma3"]())
    assert "prompt see themselves" in unsupported_reason("varlen", TINY["paligemma"]())
    assert all("caps its attention" in unsupported_reason(each, TINY["paligemma2"]()) for each in ("varlen", "flex"))
    dropping = TINY["llava"](attention_dropout=0.1)
    assert "dropout" in unsupported_reason("varlen", dropping) and "dropout" in unsupported_reason("flex", dropping)
    on_cuda(monkeypatch, torch.float32)
    assert "half precision only" in unsupported_reason("varlen", TINY["llava"]())

    def missing() -> None:
        raise UserError("no variable-length attention here")

    on_cuda(monkeypatch)
    monkeypatch.setattr(backends, "varlen_kernel", missing)
    assert "no variable-length attention here" in unsupported_reason("varlen", TINY["llava"]())


@pytest.mark.parametrize("backend", ["dense", "flex", "varlen"])
def test_sound_kernels_pass_their_check(backend: AttentionBackend) -> None:
    assert kernel_error(backend, heads=4, groups=2, size=16, device="cpu", dtype=torch.float32) < 1e-5


def test_a_kernel_that_aligns_elsewhere_is_not_used(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bottom-right or top-left: the convention differs between kernels and versions, and no shape tells."""
    monkeypatch.setattr(kernels, "varlen_kernel", lambda: aligned_at_the_first_key)
    assert kernel_error("varlen", heads=4, groups=2, size=16, device="cpu", dtype=torch.float32) > 0.2
    monkeypatch.setattr(backends, "unsupported_reason", lambda backend, vlm: "")
    with caplog.at_level(logging.WARNING):
        assert choose_attention("auto", vlm) == "plain"
    assert "varlen attention is left out: its kernel is off by" in caplog.text
    with pytest.raises(UserError, match="its kernel is off by"):
        choose_attention("varlen", vlm)
    monkeypatch.setattr(kernels, "varlen_kernel", lambda: loop)
    assert choose_attention("auto", vlm) == "varlen"


def test_a_kernel_that_raises_is_not_used(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Tensor:
        raise RuntimeError("no kernel image is available\nand more")

    monkeypatch.setattr(kernels, "varlen_kernel", lambda: broken)
    assert kernel_problem("varlen", vlm) == "no kernel image is available"


def test_windows_in_kernels_count_along_the_path(vlm: VLM) -> None:
    """A window by distance in the row would cut the rejected side's prompt: the two disagree on this tree."""
    tree = response_tree(range(10, 30), [range(30, 50), range(50, 60)])
    rules = AttentionRules(window=12)
    marks = marks_of(tree, depth_first(tree), rules)
    by_row = replace(marks, place=torch.arange(len(marks.place), dtype=torch.int32))
    place, none = torch.arange(len(marks.place)), torch.zeros(())
    honest, wrong = (m.visible(windowed=True)(none, none, place[:, None], place[None]) for m in (marks, by_row))
    assert torch.equal(honest, visibility(tree, rules, windowed=True)) and not torch.equal(honest, wrong)


def test_the_row_of_a_back_end_is_the_same_row(vlm: VLM) -> None:
    use_tree_attention(vlm.base)
    rows = [shared_row(vlm, TREES["deep"], backend=b) for b in ("plain", "dense", "flex", "varlen")]  # type: ignore[arg-type]
    for row in rows[1:]:
        assert torch.equal(row.input_ids, rows[0].input_ids) and torch.equal(row.position_ids, rows[0].position_ids)


@CUDA
@pytest.mark.parametrize("backend", ["flex", "varlen"])
def test_the_kernels_of_this_gpu(backend: AttentionBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real kernels, forward and backward, in bfloat16."""
    monkeypatch.undo()
    assert kernel_error(backend, heads=8, groups=2, size=64, device="cuda", dtype=torch.bfloat16) < 5e-2


@CUDA
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mistral3-window"])
def test_scoring_on_this_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    vlm = add_lora(TINY[name](), spread=0.05)
    vlm.model.to("cuda", torch.bfloat16)
    batch = mixed_batch(vlm).to("cuda")
    plain = PairScorer(vlm, sharing="on", attention="plain")(batch)
    for asked in ("varlen", "flex"):
        pairs = PairScorer(vlm, sharing="on", attention=asked)(batch)  # type: ignore[arg-type]
        torch.testing.assert_close(pairs.rejected.policy, plain.rejected.policy, rtol=0, atol=0.1)
