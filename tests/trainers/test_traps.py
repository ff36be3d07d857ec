"""Silent errors of other trainers between data set and model: each would train on without a word. They are put back on
purpose where the code has a place for them, and must show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmpo.data.corruption import Corruption
from mmpo.data.pair import PreferencePair
from mmpo.files.images import encode_image, load_image
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import SEVERAL as SEVERAL_IMAGES
from mmpo.models.families.processing import process_images
from mmpo.models.families.vision import vision_modules
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.models.scoring.segment_logps import shared_row
from mmpo.objectives import build_objective
from mmpo.objectives.visual import CHOSEN as CORRUPTED
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.views.views import ImageCorrupter, ViewMaker
from tests.models.families.test_families import count_tower_calls
from tests.models.pairs import PICTURES, by_hand
from tests.tiny import add_lora, user
from tests.tiny_families import TINY
from tests.trainers.material import make_pairs

CHOSEN, REJECTED = "Yes, there is a dog on the left.", "No, there is no cat"
SEVERAL = [name for name in TINY if name not in ("paligemma", "paligemma2")]


def answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def pair(name: str, shown: list[int], question: str = "Is there a dog?") -> PreferencePair:
    images: list[Any] = [encode_image(PICTURES[i]) for i in shown]
    return PreferencePair(name, user(question, len(shown)), answer(CHOSEN), answer(REJECTED), images)


def collated(vlm: VLM, pairs: list[PreferencePair]) -> tuple[EncodedPairs, PairBatch]:
    store = ImageStore(vlm, 2**24)
    rows = encode_pairs(vlm, pairs, store)
    assert len(rows) == len(pairs)
    return rows, PairCollator(store)(rows.rows)["batch"]


def error(vlm: VLM, batch: PairBatch, number: int, shown: list[int], question: str) -> float:
    """How far the batch's pair is from what the model says of the same messages and images by hand."""
    with torch.no_grad():
        found = PairScorer(vlm, sharing="on", reference="none")(batch).chosen
        pictures = [load_image(encode_image(PICTURES[i])) for i in shown]
        _, logps = by_hand(vlm, user(question, len(shown)), pictures, CHOSEN)
    own = found.policy[number][found.mask[number]]
    return float((own - logps[-len(own) :]).abs().max())


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "smolvlm", "internvl"])
def test_images_stay_with_their_pair_and_in_their_order(name: str) -> None:
    """LLaMA-Factory 9119: bookkeeping of several images. Three pairs show the same two images in different ways."""
    vlm = TINY[name]()
    shown = [[0, 1], [1, 0], [1]]
    pairs = [pair(f"p{k}", images, f"Question {k}?") for k, images in enumerate(shown)]
    _, batch = collated(vlm, pairs)
    assert batch.image_index == [[0, 1], [1, 0], [1]]
    for number, images in enumerate(shown):
        assert error(vlm, batch, number, images, f"Question {number}?") < 3e-5
    if name == "llava":  # images of equal numbers of tokens: nothing in the model would notice
        mixed = replace(batch, image_index=[[0, 1], [0, 1], [1]])
        assert error(vlm, mixed, 1, [1, 0], "Question 1?") > 1e-3


@pytest.mark.parametrize("name", SEVERAL)
def test_a_picture_alone_and_beside_others(name: str) -> None:
    """LLaVA-OneVision sees a picture in tiles where it is the only one of a prompt, and whole beside others: a batch
    holds both. One, two and three images, and one image twice."""
    vlm = add_lora(TINY[name]())
    shown = [[0], [0, 1], [1], [2, 0, 1], [0, 0]]
    pairs = [pair(f"p{k}", images, f"Question {k}?") for k, images in enumerate(shown)]
    _, batch = collated(vlm, pairs)
    company = vlm.family.count_key is not None
    distinct = {(image, company and len(images) > 1) for images in shown for image in images}
    assert batch.image_tokens is not None and len(batch.image_tokens) == len(distinct) == (5 if company else 3)
    calls = count_tower_calls(vlm)
    with torch.no_grad():
        found = PairScorer(vlm, sharing="on").train()(batch)
    assert calls == [1]
    assert torch.equal(found.chosen.policy, found.chosen.reference)
    assert torch.equal(found.rejected.policy, found.rejected.reference)
    vlm.model.eval()
    for number, images in enumerate(shown):
        assert error(vlm, batch, number, images, f"Question {number}?") < 3e-5
    _, twice = collated(vlm, pairs[-1:])  # of each image only what stands beside others
    assert error(vlm, twice, 0, [0, 0], "Question 4?") < 3e-5


def test_corrupted_pictures_keep_their_company() -> None:
    vlm = TINY["llava_onevision"]()
    store = ImageStore(vlm, 2**24)
    rows = encode_pairs(vlm, [pair("one", [0]), pair("two", [0, 1])], store)
    corrupt = ImageCorrupter(vlm, store, Corruption("other"), rows.rows[1].images)
    batch = PairCollator(store, ViewMaker(store, [CORRUPTED], corrupt=corrupt).add)(rows.rows)["batch"]
    index = batch.views[CORRUPTED].image_index
    assert batch.image_inputs[SEVERAL_IMAGES][[k for own in index for k in own]].tolist() == [0, 1, 1]
    with torch.no_grad():
        found = PairScorer(vlm, sharing="on", reference="none")(batch)
    assert (found.views[CORRUPTED].policy_sum - found.chosen.policy_sum).abs().min() > 1e-4


@pytest.mark.parametrize("name", TINY)
def test_every_tensor_of_the_processor_is_in_the_batch(name: str) -> None:
    """trl 2660, 5277: side inputs dropped, or one row of patches sent instead of all."""
    vlm = TINY[name]()
    rows, batch = collated(vlm, [pair("a", [0]), pair("b", [1])])
    direct = process_images(vlm, [load_image(encode_image(PICTURES[i])) for i in (0, 1)])
    assert batch.image_inputs.keys() == direct.tensors.keys()
    for key, tensor in direct.tensors.items():
        assert torch.equal(batch.image_inputs[key], tensor), key
    assert batch.image_tokens == [
        sum(token in vlm.visual_token_ids for token in tokens) for tokens in direct.placeholders
    ]
    assert len(rows) == 2


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "mistral3"])
def test_a_side_input_that_is_lost_does_not_train_on(name: str) -> None:
    vlm = TINY[name]()
    _, batch = collated(vlm, [pair("a", [1]), pair("b", [2])])
    for key in set(batch.image_inputs) - {"pixel_values"}:
        lost = {other: tensor for other, tensor in batch.image_inputs.items() if other != key}
        with pytest.raises(Exception, match=r"."):
            PairScorer(vlm, sharing="on", reference="none")(replace(batch, image_inputs=lost))


@pytest.mark.parametrize("name", SEVERAL)
def test_words_alone_and_images_in_one_batch_and_apart(name: str) -> None:
    """trl 3934, LLaMA-Factory 6518: mixed data failed in preprocessing, or a batch without images did."""
    vlm = TINY[name]()
    _, mixed = collated(vlm, [pair("words", []), pair("one", [0]), pair("two", [0, 1])])
    _, words = collated(vlm, [pair("words", [])])
    assert words.image_inputs == {}
    scorer = PairScorer(vlm, sharing="on", reference="none")
    with torch.no_grad():
        both, alone = scorer(mixed).chosen, scorer(words).chosen
    torch.testing.assert_close(both.policy[0][both.mask[0]], alone.policy[0], rtol=0, atol=1e-5)


def test_a_shared_row_holds_no_padding(vlm: VLM) -> None:
    """dpo-prefix-sharing gives padding position 1 and lets it count; here there is none."""
    rows, batch = collated(vlm, make_pairs(6))
    trees = batch.shared(vlm.visual_token_ids).trees
    layout = shared_row(vlm, trees, batch.image_inputs)
    assert layout.input_ids.numel() == sum(len(segment.ids) for tree in trees for segment in tree)
    assert vlm.pad_id not in layout.input_ids
    sides = [(row.prompt, side) for row in rows.rows for side in (row.chosen, row.rejected)]
    distinct = {(tuple(prompt.tolist()), tuple(side.tolist())) for prompt, side in sides}
    assert sum(layout.lengths) == sum(len(side) for _, side in distinct)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "smolvlm"])
def test_the_tower_works_once_an_image_and_step(name: str, checkpointing: bool) -> None:
    """trl 1.16: four times forward for each image of a pair, and with checkpointing twice more in backward."""
    vlm = add_lora(TINY[name](), spread=0.1)
    _, batch = collated(vlm, [pair("a", [0]), pair("b", [0], "What is left?"), pair("c", [1])])
    scorer = PairScorer(vlm, sharing="on").train()
    if checkpointing:
        scorer.gradient_checkpointing_enable()
    blocks = next(m for m in vision_modules(vlm)[0].modules() if isinstance(m, torch.nn.ModuleList))
    linear = next(m for m in blocks[0].modules() if isinstance(m, torch.nn.Linear))
    seen: list[torch.Size] = []
    linear.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    build_objective("dpo").loss(scorer(batch)).backward()
    assert len(seen) == 1
    # Policy, reference, chosen, rejected and three pairs: two images.
    twice: list[torch.Size] = list(seen)
    seen.clear()
    with torch.no_grad():
        scorer(collated(vlm, [pair("a", [0]), pair("b", [1])])[1])
    assert seen == twice
