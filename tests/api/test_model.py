"""load, ask and score: a model in memory, before and after, policy and reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import datasets
import pytest
import torch
from PIL import Image

import mmpo
from mmpo.api.model import Model
from mmpo.data.shards import read_pairs
from mmpo.errors import UserError
from tests.api.test_work import trl_rows


@pytest.fixture
def tuned(here: Path, pairs: Path, tiny_llava_folder: Path) -> Model:
    done = mmpo.train(
        tiny_llava_folder, pairs, out="runs/t", max_steps=2, batch_size=4, learning_rate=0.05, eval_fraction=0.0,
        samples={"n": 0},
    )  # fmt: skip
    return mmpo.load(tiny_llava_folder, done.adapter, dtype="float32")


def by_hand(model: Model, pairs: Path, side: str) -> list[float]:
    """log p of each response: one forward of the whole model a row, softmax over all logits, in float64."""
    from mmpo.models.families.prompts import encode_prompt, encode_response, process_images

    vlm, found = model.vlm, []
    for pair in read_pairs(pairs):
        from mmpo.files.images import load_image

        processed = process_images(vlm, [load_image(pair.images[0])])
        prompt = encode_prompt(vlm, pair.prompt, processed.placeholders)
        answer = encode_response(vlm, pair.chosen_text if side == "chosen" else pair.rejected_text)
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logits = vlm.model(input_ids=ids, **processed.tensors).logits.double()
        logps = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(logps.gather(1, torch.tensor(answer)[:, None]).sum().item())
    return found


def test_scores_are_the_log_probs_of_policy_and_reference(tuned: Model, pairs: Path, photos: Path) -> None:
    scores = tuned.score(pairs)
    assert scores.ids == tuple(pair.id for pair in read_pairs(pairs)) and not scores.left_out
    assert scores.policy_chosen.dtype == torch.float64 and scores.policy_chosen.shape == (8,)
    for side in ("chosen", "rejected"):
        policy = torch.tensor(by_hand(tuned, pairs, side), dtype=torch.float64)
        with tuned.vlm.adapter_off():
            reference = torch.tensor(by_hand(tuned, pairs, side), dtype=torch.float64)
        torch.testing.assert_close(getattr(scores, f"policy_{side}"), policy, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(getattr(scores, f"ref_{side}"), reference, rtol=1e-5, atol=1e-4)
        assert (policy - reference).abs().max() > 1e-3  # training moved it
    loss = mmpo.losses.dpo(**scores.sums(), beta=0.1)
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(-0.1 * scores.margin).mean().item(), rel=1e-12)
    table = scores.to_pandas()
    assert list(table.columns) == [
        "id", "policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "chosen_lengths", "rejected_lengths",
        "margin",
    ]  # fmt: skip
    assert len(table) == 8 and "8 pairs" in repr(scores) and "<table" in scores._repr_html_()
    one_by_one = tuned.score(list(read_pairs(pairs)), batch_size=1)
    torch.testing.assert_close(one_by_one.policy_chosen, scores.policy_chosen, rtol=1e-5, atol=1e-4)
    tuned.ask(photos / "0.png", "Is there a dog?", max_new_tokens=2)  # asked after scoring, and scored again
    assert torch.equal(tuned.score(pairs).policy_chosen, scores.policy_chosen)


def test_a_model_without_adapter_has_no_reference(model: Model, pairs: Path) -> None:
    scores = model.score(pairs)
    assert scores.ref_chosen is None and scores.to_pandas().ref_chosen.isna().all()
    assert mmpo.losses.simpo(**scores.sums()).isfinite()
    with pytest.raises(UserError, match=r"mmpo\.losses\.dpo needs ref_chosen"):
        mmpo.losses.dpo(**scores.sums())


def test_a_dataset_scores_as_the_same_pairs_do(model: Model, photos: Path) -> None:
    dataset = datasets.Dataset.from_list(trl_rows(photos, 3))
    pairs = [
        mmpo.PreferencePair.simple(
            id=str(number), image=(photos / f"{number}.png").read_bytes(), question="What is in the image?",
            chosen=f"A cat and {number} chairs.", rejected=f"There are {number} dogs.",
        )
        for number in range(3)
    ]  # fmt: skip
    by_rows = mmpo.score(model, dataset, images=photos)
    assert torch.equal(by_rows.policy_chosen, mmpo.score(model, pairs).policy_chosen)
    streamed = mmpo.score(model, dataset.to_iterable_dataset(), images=photos)
    assert torch.equal(streamed.policy_chosen, by_rows.policy_chosen)
    mixed = mmpo.score(model, [pairs[0], pairs[0]])
    assert mixed.ids == ("0", "0#2")


def test_what_cannot_be_scored_is_named(model: Model, photos: Path, tmp_path: Path) -> None:
    pair = mmpo.PreferencePair.simple(id="a", image="gone.png", question="What?", chosen="A cat.", rejected="A dog.")
    good = mmpo.PreferencePair.simple(id="b", image="0.png", question="What?", chosen="A cat.", rejected="A dog.")
    scores = model.score([pair, good], images=photos)
    assert scores.ids == ("b",) and scores.left_out[0][0] == "a" and "missing" in scores.left_out[0][1]
    outside = mmpo.PreferencePair.simple(id="c", image="../x.png", question="What?", chosen="A.", rejected="B.")
    for given, told in (
        ([pair], "no pair can be scored: 1 decode/missing, as a"),
        ([], "there are none"),
        ([{"prompt": "x"}], "pairs[0] is a dict, not a PreferencePair"),
        ([outside], "leaves the dataset"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list([{"a": 1}])), "take one"),
        (b"pairs", "pairs must be a folder"),
        (None, "not NoneType"),
        (tmp_path, "no pairs of the split"),
    ):
        with pytest.raises(UserError) as caught:
            model.score(given, images=None if isinstance(given, Path) else photos)
        assert told in str(caught.value)
    with pytest.raises(UserError, match="batch_size"):
        model.score([good], images=photos, batch_size=0)


def test_photos_may_be_files_bytes_and_pictures(model: Model, photos: Path) -> None:
    file = photos / "0.png"
    given: list[Any] = [file, str(file), file.read_bytes(), Image.open(file)]
    answers = model.ask(given, ["Is there a dog?", "What is it?"], max_new_tokens=3)
    assert len(answers) == 8 and len(answers[2:4]) == 2
    assert len({one.p_yes for one in answers[::2]}) == 1 and answers[1].p_yes is None
    assert [one.photo for one in answers[::2]] == [str(file), str(file), "photo 3", "photo 4"]
    table = answers.to_pandas()
    assert list(table.columns) == ["photo", "question", "answer", "p_yes"] and len(table) == 8
    assert "&lt;b&gt;" in model.ask(file, "<b>?", max_new_tokens=1)._repr_html_()
    wrong: tuple[tuple[Any, Any, str], ...] = (
        (3, "x", "photos must be a photo or a list, not int"),
        ([3], "x", "photo 1 must be a path"),
        ({}, "x", "photos must be"),
        ([], "x", "no photo given"),
        (file, [], "no question given"),
        (file, [3], "question 1 must be a text"),
        (file, None, "questions must be"),
        (["a.png", "b.png"], "x", "2 of 2 photos can't be used"),
        ("a\0.png", "x", "no such file"),
        ("a" * 5000, "x", "File name too long"),
    )
    for photos_, questions, told in wrong:
        with pytest.raises(UserError) as caught:
            model.ask(photos_, questions)
        assert told in str(caught.value)
    with pytest.raises(UserError, match="max_new_tokens"):
        model.ask(file, "x", max_new_tokens=0)


def test_closing_and_mistakes_in_loading(tiny_llava_folder: Path, photos: Path, here: Path) -> None:
    with mmpo.load(tiny_llava_folder) as model:
        assert "LLaVA" in repr(model)
        with pytest.raises(UserError, match="adapter: given beside a loaded model"):
            mmpo.ask(model, photos / "0.png", "What?", adapter="a")
    assert "closed" in repr(model)
    for call, told in (
        (lambda: model.ask(photos / "0.png", "What?"), "the model is closed"),
        (lambda: mmpo.load("nowhere/at/all"), "no such model folder"),
        (lambda: mmpo.load(cast(Any, None)), "model must be a path or a name"),
        (lambda: mmpo.load(tiny_llava_folder, photos), "not an adapter"),
        (lambda: mmpo.load(tiny_llava_folder, dtype=cast(Any, "int4")), "unknown dtype"),
        (lambda: mmpo.ask("nowhere/at/all", "gone.png", "What?"), "gone.png: no such file"),  # before the model
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert told in str(caught.value)
