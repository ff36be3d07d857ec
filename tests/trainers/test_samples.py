"""Sample answers: the same words as the model's own `generate`, for policy and base."""

from __future__ import annotations

import torch

from mmpo.trainers.collate import encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.media import pixel_tensors
from mmpo.trainers.samples import SampleQuestions
from mmpo.trainers.settings import SampleSettings
from tests.tiny import add_lora, tiny_llava
from tests.trainers.material import make_pairs


def test_answers_are_those_of_generate_with_and_without_the_adapter() -> None:
    vlm = add_lora(tiny_llava(), spread=0.3)
    vlm.model.train()
    store = ImageStore(vlm, 2**24)
    pairs = encode_pairs(vlm, make_pairs(6), store).rows
    rows = SampleQuestions(vlm, store, pairs, SampleSettings(n=3, max_new_tokens=8))()
    assert [row["id"] for row in rows] == ["pair-0", "pair-2", "pair-4"], "one pair per image"
    assert vlm.model.training, "training goes on afterwards"
    vlm.model.eval()

    def generate(pair_id: str) -> str:
        pair = next(pair for pair in pairs if pair.id == pair_id)
        ids = pair.prompt.long()[None]
        out = vlm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **pixel_tensors(store, store.shown(pair.images)),
            max_new_tokens=8,
            do_sample=False,
        )
        return str(vlm.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    assert [row["policy"] for row in rows] == [generate(row["id"]) for row in rows]
    with vlm.adapter_off():
        assert [row["base"] for row in rows] == [generate(row["id"]) for row in rows]
    assert any(row["policy"] != row["base"] for row in rows)


def test_own_questions_are_asked_about_every_image() -> None:
    vlm = add_lora(tiny_llava())
    store = ImageStore(vlm, 2**24)
    pairs = encode_pairs(vlm, make_pairs(4), store).rows
    sampler = SampleQuestions(
        vlm, store, pairs, SampleSettings(n=9, prompts=["Is there a dog?", "How many?"], max_new_tokens=2)
    )
    assert len(sampler) == 4
    assert [row["prompt"] for row in sampler()] == ["Is there a dog?", "How many?"] * 2
    assert len(SampleQuestions(vlm, store, pairs, SampleSettings(n=0))) == 0
