"""Answers begun by the prompt, and answers that end behind their first sentence."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.reader import read_pairs
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import begun_tokens, encode_prompt, encode_response, process_images
from mmpo.models.generation.answer import Answer, AnswerEngine
from mmpo.models.generation.generate import PromptGroup, answering, generate_alone
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.text.claims import first_sentence_end
from mmpo.trainers.collate import encode_pairs
from mmpo.trainers.images import ImageStore
from tests.models.pairs import PICTURES
from tests.tiny import tiny_image, tiny_llava, user
from tests.tiny_families import TINY

BEGUN = ("The image shows a kitchen.", "There is a dog on the left. It", "No,")


def begun(*texts: str) -> list[list[dict[str, Any]]]:
    return [[*user("Describe the image."), text_message("assistant", text)] for text in texts]


def engine_of(vlm: VLM, **options: Any) -> AnswerEngine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return AnswerEngine(vlm, **options)


def answers(engine: AnswerEngine, groups: Any, **options: Any) -> list[Answer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return list(engine.answer(groups, **options))


@pytest.mark.parametrize("name", TINY)
def test_a_begun_answer_is_continued_as_by_generate_on_the_same_ids(name: str) -> None:
    vlm = TINY[name]()
    engine = engine_of(vlm, max_new_tokens=6)
    found = answers(engine, [(PICTURES[i], begun(*BEGUN)) for i in (0, 1)])
    assert not any(check.different for check in engine.checks)
    expected = []
    for number in (0, 1):
        processed = process_images(vlm, [PICTURES[number]])
        turn = encode_prompt(vlm, user("Describe the image."), processed.placeholders)
        for text in BEGUN:
            said = encode_response(vlm, text, eos=False)
            if text.endswith("."):  # a template may write something between an answer and its end token
                assert begun_tokens(vlm, text) == said[: len(begun_tokens(vlm, text))]
                said = begun_tokens(vlm, text)
            group = PromptGroup([[*turn, *said]], processed.tensors)
            with answering(vlm.model):
                alone, _ = generate_alone(vlm, group, 0, max_new_tokens=6)
            whole = vlm.tokenizer.decode([*said, *alone.token_ids], skip_special_tokens=True)
            expected.append((alone.token_ids, alone.margin, whole))
    for answer, text, (tokens, margin, whole) in zip(found, BEGUN * 2, expected, strict=True):
        if min(answer.margin, margin) > 1e-4:
            assert list(answer.token_ids) == tokens
            assert (text + answer.text).strip() == whole.strip()


def test_the_picture_and_the_turn_are_computed_once_for_all_continuations() -> None:
    vlm = tiny_llava()
    engine = AnswerEngine(vlm, max_new_tokens=4, sharing="on")
    passes: list[tuple[int, ...]] = []
    towers: list[int] = []
    vlm.backbone.vision_tower.register_forward_hook(lambda *_: towers.append(1))
    vlm.backbone.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: passes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    list(engine.answer([(tiny_image(0), begun(*BEGUN))]))
    processed = process_images(vlm, [tiny_image(0)])
    turn = len(encode_prompt(vlm, user("Describe the image."), processed.placeholders))
    assert len(towers) == 1
    assert passes[0][0] == 1 and passes[0][1] >= turn  # the prefix, once
    assert passes[1][1] == sum(turn + len(begun_tokens(vlm, text)) - passes[0][1] for text in BEGUN)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "gemma3", "paligemma", "pixtral"])
def test_the_tokens_are_those_that_training_finds(name: str, tmp_path: Path) -> None:
    vlm = TINY[name]()
    tiny_image(0).save(tmp_path / "a.png")
    with PairWriter(tmp_path / "pairs", recipe={}) as writer:
        for number, text in enumerate([*BEGUN, "It says </s> <image_soft_token> here."]):
            simple = PreferencePair.simple(
                id=str(number),
                image=(tmp_path / "a.png").read_bytes(),
                question="Describe the image.",
                chosen=" There is a dog.",
                rejected=" A cat.",
            )
            writer.add(replace(simple, prompt=[*simple.prompt, text_message("assistant", text)], unfinished=True))
        writer.close(title="t", notes="")
    pairs = list(read_pairs(tmp_path / "pairs"))
    rows = encode_pairs(vlm, pairs, ImageStore(vlm, 1 << 26), root=tmp_path / "pairs").rows
    assert len(rows) == 4
    processed = process_images(vlm, [tiny_image(0)])
    for row, pair in zip(rows, pairs, strict=True):
        assert row.prompt.tolist() == encode_prompt(vlm, pair.prompt, processed.placeholders)


def test_a_space_at_the_end_belongs_to_the_next_word() -> None:
    vlm = tiny_llava()
    assert begun_tokens(vlm, "A dog. ") == begun_tokens(vlm, "A dog.")
    assert begun_tokens(vlm, "A dog. ", ["There is"]) == begun_tokens(vlm, "A dog.")
    assert begun_tokens(vlm, " ") == begun_tokens(vlm, "") == []
    engine = AnswerEngine(vlm, max_new_tokens=12, sharing="off")
    for number in range(6):
        plain, spaced = engine.answer([(tiny_image(number), begun("A dog.", "A dog. "))])
        assert plain.token_ids == spaced.token_ids
        assert plain.text.lstrip(" \t") == spaced.text
        whole = vlm.tokenizer.decode([*begun_tokens(vlm, "A dog."), *plain.token_ids], skip_special_tokens=True)
        assert ("A dog." + plain.text).strip() == whole.strip()


def test_an_empty_beginning_is_none_and_a_picture_in_it_is_refused() -> None:
    vlm = tiny_llava()
    assert encode_prompt(vlm, [*user("What?"), text_message("assistant", " ")], 1) == encode_prompt(
        vlm, user("What?"), 1
    )
    shown = [*user("What?", 0), {"role": "assistant", "content": [{"type": "image"}]}]
    with pytest.raises(UserError, match="answer begun shows a part of type 'image'"):
        encode_prompt(vlm, shown, 1)


def test_what_follows_a_beginning_is_scored_as_the_rest_of_the_whole() -> None:
    vlm = tiny_llava()
    texts = [" There is a dog.", " No cat."]
    [prompt] = begun("A kitchen.")
    found = score_responses(vlm, prompt, [tiny_image(0)], texts)
    whole = score_responses(vlm, prompt[:-1], [tiny_image(0)], ["A kitchen." + text for text in texts])
    assert found[0] - found[1] == pytest.approx(whole[0] - whole[1], abs=1e-4)
    assert all(part > all_ for part, all_ in zip(found, whole, strict=True))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" A dog. It", " A dog."),
        ("A dog", None),
        ("A dog.", "A dog."),
        ("Is it? Yes", "Is it?"),
        ("A dog!", "A dog!"),
        ("A dog\nA cat", "A dog\n"),
        ("\n\nA dog", None),
        ("... A dog", None),
        ("There are 3.", None),
        ("There are 3.5 cups", None),
        ("There are 3. Two", "There are 3."),
        ("Mr.", None),
        ("Mr. Smith sits", None),
        ("He says “Go.” Then", "He says “Go.”"),
        ("dogs, cats, etc. The", "dogs, cats, etc."),
        ("", None),
    ],
)
def test_where_the_first_sentence_ends(text: str, sentence: str | None) -> None:
    end = first_sentence_end(text)
    assert (None if end is None else text[:end]) == sentence


def sampled(vlm: VLM, prompts: Any, k: int, *, sharing: Any = "on", budget: int = 8192, **options: Any) -> Any:
    engine = engine_of(vlm, max_new_tokens=24, token_budget=budget)
    many = engine.sample_many(prompts, k, temperature=1.5, seed=3, **options)
    return [[(a.token_ids, a.text, a.stopped, a.truncated) for a in own] for own in many]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_samples_end_behind_their_first_sentence(name: str) -> None:
    vlm = TINY[name]()
    prompts = [(PICTURES[i], prompt) for i in (0, 1) for prompt in ["Describe the image.", *begun(BEGUN[0])]]
    whole = sampled(vlm, prompts, 4)
    short = sampled(vlm, prompts, 4, stop="sentence")
    stopped = [row for own in short for row in own if row[2]]
    assert 0 < len(stopped) < 16, "the random model must end some sentences and not others"
    for full, cut in zip((r for own in whole for r in own), (r for own in short for r in own), strict=True):
        tokens, text, ended, truncated = cut
        assert full[0][: len(tokens)] == tokens  # the same stream, only shorter
        assert not (ended and truncated)
        if ended:
            assert text == full[1][: len(text)] and (text[-1] in ".!?\"')" or len(tokens) < len(full[0]))
            assert first_sentence_end(vlm.tokenizer.decode(tokens[:-1])) is None
        else:
            assert (tokens, truncated) == (full[0], full[3])
    assert sampled(vlm, prompts, 4, sharing="off", stop="sentence") == short
    assert sampled(vlm, prompts[2:], 4, budget=100, stop="sentence") == short[2:]
    assert [own[:2] for own in short] == sampled(vlm, prompts, 2, stop="sentence")


@pytest.mark.slow
def test_greedy_answers_stop_and_check_themselves() -> None:
    stopped = 0
    for seed in range(5):
        vlm = tiny_llava(seed)
        groups = [(tiny_image(i), ["Describe the image.", *begun(*BEGUN)]) for i in range(2)]
        engine = AnswerEngine(vlm, max_new_tokens=30)
        short = list(engine.answer(groups, stop="sentence"))
        assert engine.checks[0].asked == 3 and not engine.checks[0].different and not engine.unshared_reason
        for one, full in zip(short, engine.answer(groups), strict=True):
            assert full.token_ids[: len(one.token_ids)] == one.token_ids
            assert not full.stopped and one.truncated == (full.truncated and not one.stopped)
            stopped += one.stopped
    assert stopped > 2


def test_stop_is_read() -> None:
    with pytest.raises(UserError, match="stop='paragraph'"):
        AnswerEngine(tiny_llava()).answer([(tiny_image(0), ["What?"])], stop="paragraph")  # type: ignore[arg-type]
