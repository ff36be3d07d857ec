"""The answering engine: the same answers as one by one, asked once, in order, with its fallbacks."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mmpo.models.generation.continuing as continuing_module
from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM
from mmpo.models.generation import asking
from mmpo.models.generation.answer import AnswerEngine, Question, group_by_image
from mmpo.models.generation.generate import Continuation, generate_shared
from mmpo.models.generation.self_check import compare, plain_decoding
from tests.models.generation.test_generate import QUESTIONS, sliding_llava
from tests.tiny import add_lora, tiny_image, tiny_llava, user

IMAGES = [tiny_image(i) for i in range(3)]


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    """A fallback that a test doesn't expect fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.fixture
def asked_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each batch that went through shared generation."""
    rows: list[int] = []

    def counting(vlm: VLM, groups: Any, **options: Any) -> Any:
        rows.append(sum(len(group.prompts) for group in groups))
        return generate_shared(vlm, groups, **options)

    monkeypatch.setattr(continuing_module, "generate_shared", counting)
    return rows


def ordinary(vlm: VLM, image: Image.Image, text: str, limit: int) -> list[int]:
    """Processor and `model.generate`, as any user of transformers would write it."""
    prompt = vlm.processor.apply_chat_template(user(text), tokenize=False, add_generation_prompt=True)
    inputs = vlm.processor(images=image, text=prompt, return_tensors="pt", add_special_tokens=False)
    out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=limit)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def test_answers_equal_one_by_one_generate_in_order(vlm: VLM) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=10)
    answers = list(engine.answer([(image, QUESTIONS) for image in IMAGES]))
    assert [a.id for a in answers] == [str(i) for i in range(12)]
    expected = [ordinary(vlm, image, text, 10) for image in IMAGES for text in QUESTIONS]
    assert [list(a.token_ids) for a in answers] == expected
    assert [a.text for a in answers] == [
        vlm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
    ]
    assert engine.checks[0].asked == 3
    assert not engine.checks[0].different
    assert not engine.unshared_reason


def test_p_yes_is_the_share_of_yes_in_the_first_distribution(vlm: VLM) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=1)
    [answer] = engine.answer([(IMAGES[0], QUESTIONS[:1])])
    prompt = vlm.processor.apply_chat_template(user(QUESTIONS[0]), tokenize=False, add_generation_prompt=True)
    inputs = vlm.processor(images=IMAGES[0], text=prompt, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        p = vlm.model(**inputs).logits[0, -1].softmax(-1)
    mass = {"yes": 0.0, "no": 0.0}
    for index in range(len(vlm.tokenizer)):
        if (word := vlm.tokenizer.decode([index]).strip().lower()) in mass:
            mass[word] += float(p[index])
    assert answer.p_yes == pytest.approx(mass["yes"] / (mass["yes"] + mass["no"]), abs=1e-5)
    assert answer.p_yes == pytest.approx(1 / (1 + math.exp(answer.no_logit - answer.yes_logit)))


def test_batches_do_not_change_answers(vlm: VLM, asked_rows: list[int]) -> None:
    groups = [(image, QUESTIONS) for image in IMAGES]
    together = list(AnswerEngine(vlm, max_new_tokens=6).answer(groups))
    assert asked_rows == [12]
    asked_rows.clear()
    apart = list(AnswerEngine(vlm, max_new_tokens=6, token_budget=60).answer(groups))
    assert len(asked_rows) > 3
    assert [a.token_ids for a in together] == [a.token_ids for a in apart]


def test_duplicates_are_asked_once_even_across_batches(vlm: VLM, asked_rows: list[int]) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=3, token_budget=100)
    copy = IMAGES[0].copy()  # the same pixels in another object
    questions = [
        Question("a", IMAGES[0], "Is there a dog?"),
        Question("b", IMAGES[0], "Is there a cat?"),
        Question("c", IMAGES[1], "Is there a dog?"),
        Question("d", copy, "Is there a dog?"),
        Question("e", IMAGES[0], "Is there a cat?"),
    ]
    answers = {a.id: a for a in engine.answer(questions)}
    assert list(answers) == ["a", "b", "c", "d", "e"]
    assert sum(asked_rows) == 3
    assert answers["d"].token_ids == answers["a"].token_ids
    assert answers["e"].token_ids == answers["b"].token_ids


def test_answers_come_while_questions_are_still_read(vlm: VLM) -> None:
    read: list[int] = []

    def groups() -> Iterator[tuple[Image.Image, list[str]]]:
        for number in range(6):
            read.append(number)
            yield tiny_image(number), QUESTIONS[:2]

    answers = AnswerEngine(vlm, max_new_tokens=2, token_budget=120).answer(groups())
    next(answers)
    assert len(read) < 6


def test_image_sources(vlm: VLM, tmp_path: Path) -> None:
    IMAGES[0].save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    engine = AnswerEngine(vlm, max_new_tokens=4)
    sources = [IMAGES[0], data, tmp_path / "a.png", str(tmp_path / "a.png")]
    tokens = [answer.token_ids for answer in engine.answer([(source, QUESTIONS[:1]) for source in sources])]
    assert len(set(tokens)) == 1
    rooted = AnswerEngine(vlm, max_new_tokens=4, image_root=tmp_path)
    assert next(rooted.answer([("a.png", QUESTIONS[:1])])).token_ids == tokens[0]
    with pytest.raises(Quarantined, match="path_escape"):
        next(rooted.answer([("../a.png", QUESTIONS[:1])]))


def test_several_images_and_whole_messages(vlm: VLM) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=5)
    messages = user("What?", 2)
    plain, spelled = engine.answer([(IMAGES[:2], ["What?"]), (IMAGES[:2], [messages])])
    assert plain.token_ids == spelled.token_ids
    prompt = vlm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = vlm.processor(images=IMAGES[:2], text=prompt, return_tensors="pt", add_special_tokens=False)
    out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    assert list(plain.token_ids) == out.tolist()


def test_broken_images_are_quarantined_or_raise(vlm: VLM) -> None:
    buffer = io.BytesIO()
    IMAGES[0].save(buffer, "PNG")
    broken = buffer.getvalue()[:200]
    groups = [(broken, QUESTIONS[:2]), (IMAGES[1], QUESTIONS[:1])]
    engine = AnswerEngine(vlm, max_new_tokens=2)
    with pytest.raises(Quarantined):
        list(engine.answer(groups))
    reported: list[tuple[str, str]] = []
    answers = list(engine.answer(groups, on_quarantine=lambda id, why: reported.append((id, why.stage))))
    assert reported == [("0", "decode"), ("1", "decode")]
    assert [a.id for a in answers] == ["2"]


def test_before_and_after_in_one_load() -> None:
    base = tiny_llava()
    groups = [(image, QUESTIONS[:2]) for image in IMAGES]
    expected = [a.token_ids for a in AnswerEngine(base, max_new_tokens=6).answer(groups)]
    tuned = add_lora(base, spread=0.3)
    trainable = {name for name, p in tuned.model.named_parameters() if p.requires_grad}
    engine = AnswerEngine(tuned, max_new_tokens=6)
    pairs = list(engine.before_after(groups))
    assert [before.token_ids for before, _ in pairs] == expected
    after = [ordinary(tuned, image, text, 6) for image, texts in groups for text in texts]
    assert [list(a.token_ids) for _, a in pairs] == after
    assert after != [list(tokens) for tokens in expected]
    assert len(engine.checks) == 2
    with engine.adapter_off():
        lazy = engine.answer(groups)  # asked here, read below
    assert [a.token_ids for a in lazy] == expected
    assert [list(a.token_ids) for a in engine.answer(groups)] == after
    assert {name for name, p in tuned.model.named_parameters() if p.requires_grad} == trainable


def test_adapter_off_without_an_adapter_is_an_error(vlm: VLM) -> None:
    with pytest.raises(UserError, match="adapter"), AnswerEngine(vlm).adapter_off():
        pass


def test_before_after_reports_a_broken_image_once() -> None:
    engine = AnswerEngine(add_lora(tiny_llava()), max_new_tokens=2)
    reported: list[str] = []
    groups = [(b"no image", QUESTIONS[:1]), (IMAGES[0], QUESTIONS[:1])]
    assert len(list(engine.before_after(groups, on_quarantine=lambda id, why: reported.append(id)))) == 1
    assert reported == ["0"]


def test_describe_is_the_same_in_any_batch(vlm: VLM, asked_rows: list[int]) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=12)
    images = [tiny_image(i) for i in range(5)]
    batched = list(engine.describe(images, "Describe the image."))
    assert asked_rows == [5]
    assert list(engine.describe(images, "Describe the image.", batch_size=2)) == batched
    assert asked_rows == [5, 2, 2, 1]
    assert batched == [
        vlm.tokenizer.decode(ordinary(vlm, image, "Describe the image.", 12), skip_special_tokens=True).strip()
        for image in images
    ]


def test_samples_depend_on_seed_image_and_prompt_only(vlm: VLM) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=6)
    five = engine.samples(IMAGES[0], "What?", 5, top_p=0.9, seed=3)
    assert len(set(five)) > 1
    assert engine.samples(IMAGES[0], "What?", 2, top_p=0.9, seed=3) == five[:2]
    assert engine.samples(IMAGES[0], "What?", 5, top_p=0.9, seed=4) != five
    many = list(engine.sample_many([(i, "What?") for i in (IMAGES[1], IMAGES[0])], 5, top_p=0.9, seed=3))
    assert [answer.text for answer in many[1]] == five
    assert [answer.id for answer in many[1]] == ["0", "1", "2", "3", "4"]
    small = AnswerEngine(vlm, max_new_tokens=6, token_budget=60)  # k rows spread over several batches
    assert small.samples(IMAGES[0], "What?", 5, top_p=0.9, seed=3) == five
    alone = AnswerEngine(vlm, max_new_tokens=6, sharing="off")
    assert alone.samples(IMAGES[0], "What?", 5, top_p=0.9, seed=3) == five


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_the_greedy_answer_and_the_samples_from_one_prefill(vlm: VLM, sharing: Any) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=6, sharing=sharing)
    asked = [(image, "What?") for image in IMAGES[:2]]
    options: dict[str, Any] = {"temperature": 1.7, "top_p": 0.9, "seed": 3}
    both = list(engine.sample_many(asked, 3, **options, greedy_first=True))
    greedy = list(engine.answer([Question("greedy", *item) for item in asked]))
    assert [answers[0].text for answers in both] == [answer.text for answer in greedy]
    assert [a[0].token_ids for a in both] == [a.token_ids for a in greedy]
    sampled = engine.sample_many(asked, 3, **options)
    assert [[a.token_ids for a in answers[1:]] for answers in both] == [[a.token_ids for a in s] for s in sampled]
    assert [len(answers) for answers in engine.sample_many(asked, 0, greedy_first=True)] == [1, 1]


def test_a_model_that_mixes_rows_is_caught_and_answered_one_by_one(vlm: VLM) -> None:
    # The first token of the stream leaks into all others: harmless alone, wrong as soon as rows are packed.
    vlm.backbone.language_model.layers[1].register_forward_pre_hook(
        lambda module, args: (args[0] + args[0].roll(1, 1), *args[1:])
    )
    engine = AnswerEngine(vlm, max_new_tokens=5)
    with pytest.warns(RuntimeWarning, match="one by one"):
        answers = list(engine.answer([(IMAGES[0], QUESTIONS)]))
    assert engine.checks[0].different
    assert "self-check" in engine.unshared_reason
    assert [list(a.token_ids) for a in answers] == [ordinary(vlm, IMAGES[0], text, 5) for text in QUESTIONS]


def test_attention_that_can_not_share_falls_back_or_refuses() -> None:
    vlm = sliding_llava()
    with pytest.warns(RuntimeWarning, match="sliding_window"):
        answers = list(AnswerEngine(vlm, max_new_tokens=4).answer([(IMAGES[0], QUESTIONS)]))
    assert [list(a.token_ids) for a in answers] == [ordinary(vlm, IMAGES[0], text, 4) for text in QUESTIONS]
    with pytest.raises(UserError, match="sliding_window"):
        list(AnswerEngine(vlm, max_new_tokens=4, sharing="on").answer([(IMAGES[0], QUESTIONS)]))


def test_generation_settings_beyond_greedy_are_honoured_one_by_one(vlm: VLM) -> None:
    assert plain_decoding(vlm) == ""
    vlm.base.generation_config.no_repeat_ngram_size = 3
    with pytest.warns(RuntimeWarning, match=r"no_repeat_ngram_size=3"):
        engine = AnswerEngine(vlm, max_new_tokens=8)
    answers = list(engine.answer([(IMAGES[0], QUESTIONS)]))
    assert [list(a.token_ids) for a in answers] == [ordinary(vlm, IMAGES[0], text, 8) for text in QUESTIONS]


def test_compare_tells_near_ties_from_differences() -> None:
    scores = [torch.tensor([0.0, 1.0, 1.00005]), torch.tensor([3.0, 1.0, 0.0])]
    alone = Continuation([2, 0], first=(1.0, 0.5))
    assert compare(Continuation([2, 0], first=(1.0, 0.5)), alone, scores, 1e-3) == ("", False)
    problem, close = compare(Continuation([1, 0], first=(1.0, 0.5)), alone, scores, 1e-3)
    assert close
    assert "token 0 is 1 instead of 2" in problem
    assert compare(Continuation([2, 1]), alone, scores, 1e-3) == ("token 1 is 1 instead of 0, which leads by 2", False)
    assert "yes-no" in compare(Continuation([2, 0], first=(1.2, 0.5)), alone, scores, 1e-3)[0]
    assert "yes-no" in compare(Continuation([2, 0], first=(math.nan, 0.5)), alone, scores, 1e-3)[0]
    assert compare(Continuation([2]), alone, scores, 1e-3) == ("1 tokens instead of 2", False)


def test_a_vocabulary_without_yes_and_no_gives_no_p_yes(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = {token: index for token, index in vlm.tokenizer.get_vocab().items() if "es" not in token.lower()}
    monkeypatch.setattr(vlm.tokenizer, "get_vocab", lambda: vocabulary)
    [answer] = AnswerEngine(vlm, max_new_tokens=1).answer([(IMAGES[0], QUESTIONS[:1])])
    assert answer.p_yes is None


def test_a_picture_is_hashed_once_for_all_questions_about_it(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Any] = []
    honest = asking.source_key
    monkeypatch.setattr(asking, "source_key", lambda source: hashed.append(source) or honest(source))
    engine = AnswerEngine(vlm, max_new_tokens=2)
    answers = list(engine.answer([(IMAGES[0], QUESTIONS[:3]), ([IMAGES[1], IMAGES[2]], QUESTIONS[:2])]))
    assert len(answers) == 5 and hashed == [IMAGES[0], IMAGES[1], IMAGES[2]]
    hashed.clear()
    buffer = io.BytesIO()
    IMAGES[0].save(buffer, "PNG")
    data = buffer.getvalue()
    assert len(list(engine.answer(Question(str(i), data, text) for i, text in enumerate(QUESTIONS[:3])))) == 3
    assert hashed == [data]


def test_a_picture_that_is_drawn_on_between_questions_is_another(vlm: VLM) -> None:
    """The same object, other pixels: identity is no proof, only bytes and paths are taken by it."""
    canvas = IMAGES[0].copy()

    def questions() -> Iterator[Question]:
        yield Question("before", canvas, "Is there a dog?")
        canvas.paste(IMAGES[1])
        yield Question("after", canvas, "Is there a dog?")

    drawn = AnswerEngine(vlm, max_new_tokens=4).answer(questions())
    apart = AnswerEngine(vlm, max_new_tokens=4).answer(Question(str(i), IMAGES[i], "Is there a dog?") for i in (0, 1))
    assert [answer.token_ids for answer in drawn] == [answer.token_ids for answer in apart]


def test_group_by_image() -> None:
    questions = [Question("a", "x.png", "1"), Question("b", "y.png", "2"), Question("c", "x.png", "3")]
    assert [(image, [q.id for q in qs]) for image, qs in group_by_image(questions)] == [
        ("x.png", ["a", "c"]),
        ("y.png", ["b"]),
    ]
    with pytest.raises(UserError, match="'d' names no image"):
        group_by_image([Question("d", None, "1")])


@pytest.mark.parametrize("options", [{"sharing": "maybe"}, {"max_new_tokens": 0}])
def test_engine_refuses_senseless_settings(vlm: VLM, options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        AnswerEngine(vlm, **options)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 1, "temperature": -1.0}, {"k": 1, "top_p": 2.0}])
def test_samples_refuse_senseless_settings(vlm: VLM, options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        AnswerEngine(vlm).samples(IMAGES[0], "What?", **options)


def test_known_answers_are_left_out_and_the_others_keep_their_batches(vlm: VLM) -> None:
    """Whatever is known, the rest has the digits of the whole; equal pixels under a lost name are answered too."""
    words = list(enumerate(("dog", "cat", "cup")))
    asked = [
        (tiny_image(n), [Question(f"{n}/{m}", None, f"Is there a {word}?") for m, word in words]) for n in (0, 1, 2, 0)
    ]
    asked[3] = (asked[3][0], [Question(f"again/{m}", None, q.text) for m, q in enumerate(asked[3][1])])
    whole = {a.id: (a.p_yes, a.margin) for a in AnswerEngine(vlm, token_budget=200).answer(asked, max_new_tokens=3)}
    assert len(whole) == 12
    for lost in (["1/1"], ["0/0", "2/2"], ["again/1"], list(whole), []):
        engine = AnswerEngine(vlm, token_budget=200)
        given = engine.answer(asked, max_new_tokens=3, known=(whole.keys() - lost).__contains__)
        found = {a.id: (a.p_yes, a.margin) for a in given}
        assert list(found) == [name for name in whole if name in lost]
        if lost != ["again/1"]:
            assert found == {name: whole[name] for name in lost}
