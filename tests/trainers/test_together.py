"""What several processes do together: gradients of a tower that one of them does not call, one relevance table, the
statistics of a step, and sample answers of weights that are cut up."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from mmpo.models.scoring.score import PairScorer
from mmpo.trainers.collate import encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.samples import SampleQuestions
from mmpo.trainers.settings import SampleSettings
from tests.models.pairs import pair_batch
from tests.tiny import add_lora, tiny_llava
from tests.trainers import run_ddp
from tests.trainers.material import make_pairs
from tests.trainers.run_fsdp import batch_of, gradients, policy
from tests.trainers.two_processes import assert_same, run_two


def test_two_processes(tmp_path: Path) -> None:
    run_two("tests.trainers.run_ddp", tmp_path)

    expected: dict[str, torch.Tensor] = {}
    for rank in range(2):
        vlm = run_ddp.policy()
        scorer = PairScorer(vlm, sharing="on").train()
        for name, value in gradients(scorer, batch_of(vlm, rank)).items():
            if name != "loss":
                expected[name] = expected.get(name, torch.zeros_like(value)) + value / 2
            elif rank == 0:
                expected[name] = value
    found = load_file(tmp_path / "ddp.safetensors")
    unread = found.keys() - expected.keys()
    assert unread and all("vision_tower" in name and not found[name].any() for name in unread), unread
    assert_same({name: value for name, value in found.items() if name not in unread}, expected)
    assert any(value.any() for name, value in found.items() if "vision_tower" in name)

    metadata = [json.loads((tmp_path / f"facts-{rank}.json").read_text()) for rank in range(2)]
    assert metadata[0]["known"] == metadata[1]["known"] and len(metadata[0]["known"]) == 5 + 3
    written = list((tmp_path / "relevance").iterdir())
    assert len(written) == 1 and sorted(load_file(written[0])) == metadata[0]["known"]
    step = [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0]
    assert metadata[0]["step"] == metadata[1]["step"] == [step, step]
    assert [fact["own"] for fact in metadata] == [[[0.0] * 2, [2.0] * 2], [[1.0] * 3, [3.0] * 3]]

    sampled = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    store = ImageStore(vlm := policy(), 2**20)
    pairs = encode_pairs(vlm, make_pairs(2), store).rows
    alone = SampleQuestions(vlm, store, pairs, SampleSettings(n=1, max_new_tokens=2))()
    assert sampled == [{"step": 0, **row} for row in alone] * 2, "written by one, the answers of whole weights"


def test_a_reference_model_stays_in_evaluation() -> None:
    reference = tiny_llava(seed=1).model
    dropout = torch.nn.Dropout(0.5)
    reference.model.language_model.layers[0].self_attn.register_module("dropped", dropout)
    scorer = PairScorer(add_lora(tiny_llava()), reference=reference)
    scorer.train()
    assert scorer.model.training and not any(module.training for module in reference.modules())
    batch = pair_batch(scorer._vlm, 2)
    torch.testing.assert_close(scorer(batch).chosen.reference, scorer.eval()(batch).chosen.reference)
    assert not scorer.training
