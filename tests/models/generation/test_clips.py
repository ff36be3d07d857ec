"""Clips asked about through the engine: as videos where the family takes them, else as lists of images."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest

from mmpo.errors import Quarantined, UserError
from mmpo.files.images import encode_image, load_image
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import join_images, process_images, process_video
from mmpo.models.families.prompts import encode_prompt
from mmpo.models.generation.answer import AnswerEngine, Question, group_by_image
from mmpo.models.generation.asking import ImageCache, Images
from mmpo.video.clip import Clip
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_videos import VIDEO, clip, video_model

STILL = encode_image(tiny_image(7, (40, 36)))


def message(*kinds: str, question: str = "What happens?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]}]


@pytest.mark.parametrize("name", VIDEO)
def test_a_clip_is_shown_as_a_video(name: str) -> None:
    """Placeholders and tensors are those of `process_video`; an image beside it keeps its place."""
    vlm = video_model(name)
    gallery = ImageCache(vlm, None)
    given = clip(1)
    own = process_video(vlm, [load_image(frame) for frame in given.frames], given.times)
    still = process_images(vlm, [load_image(STILL)])
    shown = gallery.show(given)
    assert gallery.encode("What happens?", shown) == encode_prompt(vlm, message("video"), own.placeholders)
    for kinds in (("video", "image"), ("image", "video")):
        sources: Images = [given if kind == "video" else STILL for kind in kinds]
        parts = [own if kind == "video" else still for kind in kinds]
        both = gallery.show(sources)
        expected = join_images([part.tensors for part in parts])
        assert {key: value.tolist() for key, value in both.processed.tensors.items()} == {
            key: value.tolist() for key, value in expected.items()
        }
        ids = encode_prompt(vlm, message(*kinds), [part.placeholders[0] for part in parts])
        assert gallery.encode("What happens?", both) == gallery.encode(message(*kinds), both) == ids
        with pytest.raises(UserError, match="but given were"):
            gallery.encode(message(*reversed(kinds)), both)


@pytest.mark.parametrize("name", VIDEO)
def test_shared_answers_are_those_of_one_by_one(name: str) -> None:
    vlm = video_model(name)
    asked = [
        (clip(0), ["What happens?", "Is there a dog?"]),
        ([clip(1, frames=6), STILL], ["What is left?", message("video", "image", question="Is there a cat?")]),
        (STILL, ["What is it?"]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = list(AnswerEngine(vlm, sharing="on", max_new_tokens=6).answer(asked))
    alone = list(AnswerEngine(vlm, sharing="off", max_new_tokens=6).answer(asked))
    assert [answer.token_ids for answer in shared] == [answer.token_ids for answer in alone]
    assert [answer.p_yes for answer in shared] == pytest.approx([answer.p_yes for answer in alone], abs=1e-4)


def drawn(vlm: VLM, images: Images, prompt: Any = "What happens?") -> list[str]:
    return AnswerEngine(vlm, max_new_tokens=8).samples(images, prompt, 4, temperature=1.5, seed=3)


@pytest.mark.parametrize("make", [tiny_llava, lambda: replace(video_model("llava_onevision"), video_input="frames")])
def test_without_a_video_input_a_clip_is_its_frames(make: Any) -> None:
    """The same prompt, the same pixels, the same random numbers."""
    vlm, given = make(), clip(0)
    frames = list(given.frames)
    assert drawn(vlm, given) == drawn(vlm, frames)
    assert drawn(vlm, [STILL, given]) == drawn(vlm, [STILL, *frames])
    parts = message("video", "image")
    assert drawn(vlm, [given, STILL], parts) == drawn(vlm, [*frames, STILL], message(*["image"] * 5))
    gallery = ImageCache(vlm, None)
    assert gallery.show(given).digest == gallery.show(frames).digest
    assert gallery.show(given).digest == gallery.show(Clip(given.frames, (0.0, 3.0, 6.0, 9.0))).digest


def test_the_modes_and_the_times_have_names_of_their_own() -> None:
    given = clip(0)
    slow = Clip(given.frames, tuple(2 * time for time in given.times))
    native = video_model("qwen2_5_vl")
    as_images = replace(native, video_input="frames")
    names = [ImageCache(vlm, None).show(one).digest for vlm in (native, as_images) for one in (given, slow)]
    assert len(set(names)) == 3 and names[2] == names[3]
    first, second = AnswerEngine(native).answer([Question("1", given, "What?"), Question("2", slow, "What?")])
    assert first.p_yes != second.p_yes, "this family's positions follow the times"


def test_questions_about_a_clip_come_together() -> None:
    given, same = clip(0), clip(0)
    groups = group_by_image([Question("a", given, "?"), Question("b", STILL, "?"), Question("c", same, "!")])
    assert [[question.id for question in questions] for _, questions in groups] == [["a", "c"], ["b"]]


def test_a_broken_frame_gives_the_clip_up() -> None:
    engine = AnswerEngine(video_model("llava_next_video"))
    given = clip(0)
    broken = Clip((*given.frames[:3], b"nonsense"), given.times)
    uneven = Clip((*given.frames[:3], STILL), given.times)
    lost: list[str] = []
    asked = [Question(name, one, "What?") for name, one in (("a", broken), ("b", given), ("c", uneven))]

    def note(id: str, reason: Quarantined) -> None:
        lost.append(f"{id}: {reason.reason}")

    assert [answer.id for answer in engine.answer(asked, on_quarantine=note)] == ["b"]
    assert lost == ["a: not_an_image", "c: uneven_frames"]
