"""Native videos: shared scoring equals the model called by hand, next to images and with frames of any number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import is_torchvision_available

from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import ProcessedImages, join_images, model_tensors, process_video, video_tensors
from mmpo.models.families.prompts import encode_prompt, encode_response, process_images
from mmpo.models.families.vision import encode_images
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.generate import PromptGroup
from mmpo.models.scoring.score import PairBatch, PairScorer
from tests.models.generation.test_generate import assert_same
from tests.models.pairs import PICTURES, gradients, one_pair, worst_relative
from tests.tiny import add_lora, tiny_image
from tests.tiny_families import TINY
from tests.tiny_videos import VIDEO, small_processor, video_model, with_video

CHOSEN, REJECTED = "Yes, there is a dog", "No cat"


def video(vlm: VLM, frames: int, seed: int = 0) -> ProcessedImages:
    """A video as the family's processor would give it, from random pixels: frames of 28 x 28, or patches of a grid."""
    random = torch.Generator().manual_seed(seed)
    token = vlm.tokenizer.convert_tokens_to_ids(vlm.processor.video_token)
    if vlm.family.grid_positions:
        height, width, steps = 4, 6, frames // 2
        raw = {
            "pixel_values_videos": torch.randn(steps * height * width, 96, generator=random),
            "video_grid_thw": torch.tensor([[steps, height, width]]),
            "second_per_grid_ts": torch.tensor([0.5]),
        }
        step = [token] * (height * width // 4)
        placeholder = step * steps
        if vlm.family.model_type == "qwen3_vl":  # each step by itself, with its time before it
            start, end = (vlm.tokenizer.convert_tokens_to_ids(f"<|vision_{side}|>") for side in ("start", "end"))
            times = [vlm.tokenizer(f"<{t / 2:.1f} seconds>").input_ids for t in range(steps)]
            placeholder = [i for time in times for i in (*time, start, *step, end)]
        raw = {key: raw[key] for key in vlm.family.video_keys}
    else:
        raw = {"pixel_values_videos": torch.randn(1, frames, 3, 28, 28, generator=random)}
        per_frame = {"llava_onevision": 4, "llava_next_video": 4, "video_llava": 17}[vlm.family.model_type]
        placeholder = [token] * (frames * per_frame + (vlm.family.model_type == "llava_onevision"))
    return ProcessedImages(video_tensors(vlm, raw), [placeholder])


def message(*kinds: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": "What is it?"}]}]


@pytest.fixture
def policy(name: str) -> VLM:
    vlm = add_lora(TINY[name](), spread=0.1)
    vlm.processor.chat_template = with_video(vlm.processor.chat_template)
    return vlm


def mixed(vlm: VLM) -> PairBatch:
    """Two videos of different lengths and an image: each alone, one video for two pairs, image and video together."""
    parts = [video(vlm, 4), process_images(vlm, PICTURES[1:2]), video(vlm, 6, seed=1)]
    shown = [[0], [0], [2], [1], [1, 0]]
    kinds = ["video", "image", "video"]
    prompts = [
        encode_prompt(vlm, message(*(kinds[k] for k in show)), [parts[k].placeholders[0] for k in show])
        for show in shown
    ]
    visual = vlm.visual_token_ids
    return PairBatch(
        ids=[str(i) for i in range(5)],
        prompt_ids=[torch.tensor(ids) for ids in prompts],
        chosen_ids=[torch.tensor(encode_response(vlm, CHOSEN + " there" * i)) for i in range(5)],
        rejected_ids=[torch.tensor(encode_response(vlm, REJECTED))] * 5,
        image_inputs=join_images([part.tensors for part in parts]),
        image_index=shown,
        image_tokens=[sum(token in visual for token in part.placeholders[0]) for part in parts],
    )


@pytest.mark.parametrize("name", VIDEO)
def test_log_probs_are_the_models_own(name: str, policy: VLM) -> None:
    """Token ids, the processor's tensors and nothing else, through the model's own forward."""
    clip = video(policy, 6)
    batch = one_pair(policy, message("video"), clip, CHOSEN, REJECTED)
    (prompt,) = batch.prompt_ids
    pairs = PairScorer(policy, sharing="on")(batch)
    for ids, side in ((batch.chosen_ids[0], pairs.chosen), (batch.rejected_ids[0], pairs.rejected)):
        row = torch.cat([prompt, ids])[None]
        inputs = model_tensors(policy, clip.tensors)
        if policy.family.grid_positions:
            inputs["mm_token_type_ids"] = 2 * (row == policy.visual_token_ids[1]).int()
        logps = policy.model(input_ids=row, **inputs).logits[0, :-1].float().log_softmax(-1)
        expected = logps.gather(1, row[0, 1:, None]).squeeze(1)[len(prompt) - 1 :]
        torch.testing.assert_close(side.policy[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VIDEO)
def test_shared_equals_unshared(name: str, policy: VLM) -> None:
    batch = mixed(policy)
    a = PairScorer(policy, sharing="on")(batch)
    grads_a = gradients(policy, a)
    b = PairScorer(policy, sharing="off")(batch)
    torch.testing.assert_close(a.chosen.policy, b.chosen.policy, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.rejected.reference, b.rejected.reference, rtol=0, atol=1e-5)
    assert worst_relative(grads_a, gradients(policy, b)) < 1e-4
    assert (a.chosen.policy[0, :4] - a.chosen.policy[2, :4]).abs().max() > 1e-4, "two videos look alike"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next_video"])
def test_answers_about_videos(name: str) -> None:
    vlm = TINY[name]()
    vlm.processor.chat_template = with_video(vlm.processor.chat_template)
    groups = []
    for seed in (0, 1):
        clip = video(vlm, 4, seed)
        prompts = [encode_prompt(vlm, message("video"), clip.placeholders)] * 2
        prompts[1] = [*prompts[1][:-1], 300, prompts[1][-1]]
        groups.append(PromptGroup(prompts, clip.tensors, 1))
    assert_same(vlm, groups, limit=6)
    assert not AnswerEngine(vlm).unshared_reason


def test_families_without_videos_say_so() -> None:
    with pytest.raises(UserError, match="takes no videos"):
        process_video(TINY["llava"](), PICTURES, [0.0, 1.0, 2.0])
    with pytest.raises(UserError, match="3 frames with 2 times"):
        process_video(TINY["video_llava"](), PICTURES, [0.0, 1.0])


def real(vlm: VLM, size: tuple[int, int] = (28, 28)) -> ProcessedImages:
    return process_video(vlm, [tiny_image(i, size) for i in range(4)], [1.0, 1.5, 2.0, 2.5])


@pytest.mark.parametrize("name", VIDEO)
def test_frames_with_their_times(name: str) -> None:
    """Through the processor: as many placeholders as features, in any family."""
    vlm = video_model(name)
    clip = real(vlm)
    batch = one_pair(vlm, message("video"), clip, CHOSEN, REJECTED)
    assert PairScorer(vlm, sharing="on", reference="none")(batch).chosen.policy.isfinite().all()
    if name == "qwen3_vl":
        assert "<1.2 seconds>" in vlm.tokenizer.decode(clip.placeholders[0])
    if name == "qwen2_5_vl":
        assert clip.tensors["second_per_grid_ts"].tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("name", VIDEO)
def test_the_prompt_is_the_processors_own(name: str) -> None:
    """An image and a video between words: the ids that the processor makes of the whole conversation."""
    vlm = video_model(name)
    clip, still = real(vlm), process_images(vlm, PICTURES[1:2])
    messages = message("image", "video")
    ids = encode_prompt(vlm, messages, [*still.placeholders, *clip.placeholders])
    text = vlm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    metadata = {"total_num_frames": 4, "fps": 2.0, "frames_indices": [2, 3, 4, 5]}
    own = vlm.processor(
        text=[text],
        images=[PICTURES[1]],
        videos=[np.stack([np.asarray(tiny_image(i, (28, 28))) for i in range(4)])],
        video_metadata=[metadata],
        do_sample_frames=False,
        add_special_tokens=False,
    )
    assert ids == list(own["input_ids"][0])


@pytest.mark.parametrize("name", VIDEO)
def test_a_template_without_videos_is_named(name: str) -> None:
    vlm = video_model(name)
    clip = real(vlm)
    vlm.processor.chat_template = TINY[name]().processor.chat_template
    with pytest.raises(UserError, match="leaves out the prompt's videos") as caught:
        encode_prompt(vlm, message("video"), clip.placeholders)
    assert "video_input: frames" in str(caught.value.hint)


def test_a_tower_cut_up_between_processes_takes_no_video() -> None:
    """Under ZeRO-3 (whose parameters have a `ds_id`) a process with more videos than another would wait for ever."""
    vlm = video_model("llava_onevision")
    clip = real(vlm)
    for parameter in vlm.backbone.vision_tower.parameters():
        parameter.ds_id = 0
    with pytest.raises(UserError, match="each video is a call of its own"):
        encode_images(vlm, clip.tensors, frozen=True)


def test_frames_of_two_sizes_are_no_video() -> None:
    with pytest.raises(Quarantined, match="frames of 28 x 28 and 20 x 28"):
        process_video(TINY["llava_next_video"](), [tiny_image(0, (28, 28)), tiny_image(1, (20, 28))], [0.0, 1.0])


@pytest.mark.skipif(not is_torchvision_available(), reason="the families' video processors need torchvision")
@pytest.mark.parametrize("name", VIDEO)
def test_the_tests_own_processors_are_like_the_families(name: str) -> None:
    vlm = video_model(name)
    size = (24, 16) if vlm.family.grid_positions else (28, 28)
    theirs = real(vlm, size)
    vlm.processor.video_processor = small_processor(vlm)
    ours = real(vlm, size)
    assert ours.placeholders == theirs.placeholders and ours.tensors.keys() == theirs.tensors.keys()
    for key, value in theirs.tensors.items():
        torch.testing.assert_close(ours.tensors[key], value, rtol=0, atol=1e-5)
