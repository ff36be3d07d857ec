"""The memory estimate: what is extrapolated from one pair is what the largest batch really keeps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from mmpo.errors import UserError
from mmpo.models.scoring.logprob import CHUNK_ELEMENTS
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.trainers import memory
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.lora import add_lora
from mmpo.trainers.memory import check_memory, estimate_memory, gigabytes, kept_bytes, try_batch
from mmpo.trainers.schedule import Schedule, Shape
from mmpo.trainers.settings import LoraSettings
from mmpo.trainers.train import train
from tests.tiny import tiny_llava
from tests.trainers.material import make_pairs, settings_for, write_pairs


class Material:
    def __init__(self, checkpointing: bool = False) -> None:
        wider = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4}
        self.vlm = add_lora(tiny_llava(text=wider), LoraSettings(rank=4))
        self.store = ImageStore(self.vlm, 2**24)
        self.pairs = encode_pairs(self.vlm, make_pairs(24), self.store)
        self.scorer = PairScorer(self.vlm, sharing="on")
        self.schedule = Schedule(self.pairs.lengths, Shape(8), seed=0, parts=self.pairs.parts(self.vlm))
        self.objective = build_objective({"dpo": {"beta": 0.1}})
        if checkpointing:
            self.scorer.gradient_checkpointing_enable()

    def batch(self, indices: list[int]) -> Any:
        return PairCollator(self.store)([self.pairs[i] for i in indices])["batch"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_pair_tells_what_the_largest_batch_keeps(checkpointing: bool) -> None:
    material = Material(checkpointing)
    largest, tokens = material.schedule.largest_batch()
    assert tokens == max(map(material.schedule.tokens, material.schedule.batches(0)))
    one = largest[:1]
    found = estimate_memory(material.vlm, material.scorer, material.batch(one), material.schedule.tokens(one), tokens)
    assert found.activations == pytest.approx(kept_bytes(material.scorer, material.batch(largest)), rel=0.1)
    assert found.weights == sum(p.nbytes for p in material.vlm.model.parameters()) + sum(
        b.nbytes for b in material.vlm.model.buffers()
    )
    trained = sum(p.numel() for p in material.vlm.model.parameters() if p.requires_grad)
    assert found.optimizer == 12 * trained
    assert found.total == found.weights + found.to_come


def test_checkpointing_keeps_less_and_is_on_afterwards() -> None:
    plain, sparing = Material(), Material(checkpointing=True)
    batch = plain.batch([0, 1])
    assert kept_bytes(sparing.scorer, batch) < 0.4 * kept_bytes(plain.scorer, batch)
    found = [estimate_memory(one.vlm, one.scorer, batch, 100, 100).working for one in (plain, sparing)]
    chunk = 2 * 4 * CHUNK_ELEMENTS
    # A layer's gradients, and with checkpointing what it keeps as well; head and logits are no layer.
    assert 1.2 < (found[1] - chunk) / (found[0] - chunk) < 3
    assert sparing.vlm.base.is_gradient_checkpointing and not plain.vlm.base.is_gradient_checkpointing


def test_looking_changes_nothing() -> None:
    material = Material()
    material.scorer.eval()
    before = {name: p.clone() for name, p in material.vlm.model.named_parameters()}
    state = torch.get_rng_state()
    try_batch(material.scorer, material.objective, material.batch([0, 1]), "two")
    kept_bytes(material.scorer, material.batch([0, 1]))
    assert torch.equal(torch.get_rng_state(), state) and not material.scorer.training
    assert all(torch.equal(p, before[name]) for name, p in material.vlm.model.named_parameters())
    assert all(p.grad is None for p in material.vlm.model.parameters())


def test_the_largest_batch_is_tried_where_memory_is_scarce(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    material = Material()
    largest, _ = material.schedule.largest_batch()
    tried: list[int] = []
    honest = memory.try_batch

    def spied(scorer: Any, objective: Any, batch: Any, described: str) -> None:
        tried.append(len(batch))
        honest(scorer, objective, batch, described)

    monkeypatch.setattr(memory, "try_batch", spied)
    arguments: Any = (
        material.vlm, material.scorer, material.objective, material.batch, largest, material.schedule.tokens
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "mmpo"):
        check_memory(*arguments)
        assert not tried and "memory: about" in caplog.text and "WARNING" not in caplog.text
        monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000)
        check_memory(*arguments)
    assert tried == [len(largest)]
    assert "training needs about" in caplog.text and "1 MB is free" in caplog.text


def test_running_out_of_memory_is_said_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    material = Material()

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PairScorer, "forward", full)
    with pytest.raises(UserError, match=r"largest batch \(8 pairs\)") as error:
        try_batch(material.scorer, material.objective, material.batch([0]), "8 pairs")
    assert "gradient_checkpointing" in str(error.value.hint)


def test_amounts_are_readable() -> None:
    assert gigabytes(14_200_000_000) == "14.2 GB" and gigabytes(3_400_000) == "3 MB"


def test_a_run_reports_its_budgets(tiny_llava_folder: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 8)
    settings = settings_for(tiny_llava_folder, pairs, max_steps=1, max_pixels=600, max_tokens=45, tokens_per_batch=150)
    result = train(settings, tmp_path / "run")
    assert 1 <= result.scaled_images <= 4  # 40 x 36 pixels each, those of pairs that are left
    assert result.truncated > 0
    assert result.memory is not None and result.memory["total"] > result.memory["weights"] > 0


class _Peak(TorchDispatchMode):
    """The most memory that tensors made inside hold at a time, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                reference = StorageWeakRef(tensor.untyped_storage())
                self._live.setdefault(reference.cdata, (reference, tensor.untyped_storage().nbytes()))
        self._live = {key: value for key, value in self._live.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return out


@pytest.mark.parametrize("checkpointing", [False, True])
def test_looking_takes_less_memory_than_the_step(checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one pair is the whole batch, too."""
    monkeypatch.setattr("mmpo.models.scoring.logprob.CHUNK_ELEMENTS", 2**10)
    material = Material(checkpointing)
    batch = material.batch([0])
    with _Peak() as step:
        material.objective.loss(material.scorer.train()(batch)).backward()
    with _Peak() as look:
        estimate_memory(material.vlm, material.scorer, batch, 1, 1)
    assert look.peak <= step.peak


def test_running_out_while_looking_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    material = Material()

    def full(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    material.vlm.base.get_decoder().layers[1].register_forward_pre_hook(full)
    with pytest.raises(UserError, match="out of memory on one pair") as error:
        check_memory(
            material.vlm, material.scorer, material.objective, material.batch, [0], material.schedule.tokens
        )  # fmt: skip
    assert "gradient_checkpointing" in str(error.value.hint)
