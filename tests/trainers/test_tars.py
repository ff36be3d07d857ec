"""TARS and its neighbours through the real model: what policy and reference get to see, what is computed once, and what
is kept beside the pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from mmpo.data.corruption import Corruption, generator
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter, read_pairs
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.scoring.pairs import PairBatch
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.objectives.visual import CHOSEN
from mmpo.trainers.collate import EncodedPair, EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.train import train
from mmpo.trainers.views.perturb import Perturber, neutral_id
from mmpo.trainers.views.relevance import ClipEmbedder, PolicyEmbedder, RelevanceTable
from mmpo.trainers.views.view_maker import view_maker
from mmpo.trainers.views.views import ImageCorrupter
from tests.tiny import add_lora, save_tiny_llava
from tests.trainers.material import make_pairs, settings_for, write_pairs

METHODS: dict[str, dict[str, Any]] = {
    "tars": {"perturbation": {"omega": 10.0}},
    "tars_official": {"disturbance": {"rate": 0.3}},
    "mdpo": {},
    "povid": {},
}


def write(folder: Path, pairs: list[PreferencePair]) -> Path:
    with PairWriter(folder, recipe={"builder": "test"}) as writer:
        for pair in pairs:
            writer.add(pair)
    return folder


class Material:
    """Pairs on disk, a model with an adapter, and batches with the views of a method."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder = folder
        self.vlm = add_lora(load_vlm(model), spread=0.1)
        self.store = ImageStore(self.vlm, 1 << 26)
        self.pairs: EncodedPairs = encode_pairs(self.vlm, read_pairs(folder), self.store, root=folder, words=True)

    def batch(self, name: str, rows: slice | list[int], **settings: Any) -> PairBatch:
        wanted = settings_for(Path(self.vlm.source), self.folder, objective={name: {}}, **settings)
        maker = view_maker(wanted, build_objective(name), self.vlm, self.store, self.pairs.rows)
        assert maker is not None
        chosen = self.pairs.rows[rows] if isinstance(rows, slice) else [self.pairs.rows[k] for k in rows]
        return PairCollator(self.store, maker.add)(chosen)["batch"]

    def scorer(self, name: str, **options: Any) -> PairScorer:
        objective = build_objective(name)
        return PairScorer(self.vlm, hidden=objective.hidden, reads=objective.reads, **options)


@pytest.fixture
def material(tiny_llava_folder: Path, tmp_path: Path) -> Material:
    return Material(tiny_llava_folder, write_pairs(tmp_path / "pairs", 6))


@contextmanager
def seen(vlm: VLM, *models: Any) -> Iterator[dict[str, list[Any]]]:
    """What the language model and the vision tower are given, call by call."""
    calls: dict[str, list[Any]] = {"ids": [], "pixels": []}

    def language(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        calls["ids"].append({name: value for name, value in kwargs.items() if isinstance(value, Tensor)})

    def tower(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls["pixels"].append(args[0] if args else kwargs["pixel_values"])

    handles = []
    for owner in (vlm, *models):
        handles += [
            owner.backbone.register_forward_pre_hook(language, with_kwargs=True),
            owner.backbone.vision_tower.register_forward_pre_hook(tower, with_kwargs=True),
        ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("sharing", ["on", "off"])
@pytest.mark.parametrize("name", METHODS)
def test_policy_and_reference_see_the_same_tokens_and_one_image_tensor(
    material: Material, name: str, sharing: str
) -> None:
    """The perturbed ids are drawn once a batch, and one pass of the tower serves both."""
    batch = material.batch(name, slice(0, 4), **METHODS[name])
    with seen(material.vlm) as calls:
        material.scorer(name, sharing=sharing)(batch)
    assert len(calls["ids"]) == 2 and len(calls["pixels"]) == 1
    reference, policy = calls["ids"]
    assert reference.keys() == policy.keys() and "input_ids" in policy
    for key, value in policy.items():
        assert torch.equal(value, reference[key]), key
    assert torch.equal(calls["pixels"][0], batch.image_inputs["pixel_values"])
    perturbed = [view for view in batch.views.values() if view.prompt_ids is not batch.prompt_ids]
    for view in perturbed:
        assert any(not torch.equal(a, b) for a, b in zip(view.prompt_ids, batch.prompt_ids, strict=True))


@pytest.mark.parametrize("name", ["tars", "mdpo"])
def test_a_second_model_as_reference_sees_the_same(material: Material, tiny_llava_folder: Path, name: str) -> None:
    """With a tower of its own it encodes the images again: the same tensor, not a corruption of its own."""
    other = load_vlm(tiny_llava_folder)
    batch = material.batch(name, slice(0, 4), **METHODS[name])
    scorer = material.scorer(name, reference=other.model)
    with seen(material.vlm, other) as calls:
        scorer(batch)
    (reference, policy), (first, second) = calls["ids"][-2:], calls["pixels"][-2:]
    assert torch.equal(policy["input_ids"], reference["input_ids"]) and torch.equal(first, second)


def test_an_image_is_encoded_and_prefilled_once_for_clean_and_perturbed_questions(tmp_path: Path) -> None:
    """Six pairs about three images of 100 tokens, four answers each: the row holds each image's tokens once, separate
    rows hold them with every answer."""
    model = save_tiny_llava(tmp_path / "model", image_size=70)
    material = Material(model, write_pairs(tmp_path / "pairs", 6))
    batch = material.batch("tars", slice(0, 6), perturbation={"omega": 10.0})
    image, held = material.vlm.image_token_id, {}
    assert batch.image_tokens == [100, 100, 100]
    for sharing in ("on", "off"):
        with seen(material.vlm) as calls:
            material.scorer("tars", sharing=sharing)(batch)
        assert [len(pixels) for pixels in calls["pixels"]] == [3]
        held[sharing] = int((calls["ids"][0]["input_ids"] == image).sum())
    assert held == {"on": 300, "off": 6 * 4 * 100}


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_of_a_batch_is_the_mean_of_its_pairs(material: Material, name: str) -> None:
    """Rows of other lengths beside a pair, and with them its padding, change nothing."""
    losses = []
    for rows in ([0, 3, 5], [0], [3], [5]):
        for sharing in ("on", "off"):
            batch = material.batch(name, rows, **METHODS[name])
            losses.append(build_objective(name).loss(material.scorer(name, sharing=sharing)(batch)).item())
    shared, apart = losses[0], losses[1]
    assert shared == pytest.approx(apart, abs=2e-5)
    assert shared == pytest.approx(sum(losses[2::2]) / 3, abs=2e-5)
    assert apart == pytest.approx(sum(losses[3::2]) / 3, abs=2e-5)


def test_relevance_is_computed_once_for_a_data_set(
    tiny_llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run over the same pairs embeds nothing; a torn table is made again."""
    pairs = write_pairs(tmp_path / "pairs", 12)
    settings = settings_for(tiny_llava_folder, pairs, objective={"tars": {}}, max_steps=2, eval_fraction=0)
    first = train(settings, tmp_path / "first")
    (table,) = (pairs / "relevance").glob("*.safetensors")
    kept = table.read_bytes()

    def never(*_: Any) -> Tensor:
        raise AssertionError("the table was there")

    with monkeypatch.context() as patch:
        patch.setattr(PolicyEmbedder, "images", never)
        patch.setattr(PolicyEmbedder, "words", never)
        second = train(settings, tmp_path / "second")
    assert second.last_train["loss"] == first.last_train["loss"]
    table.write_bytes(kept[: len(kept) // 2])
    third = train(settings, tmp_path / "third")
    assert table.read_bytes() == kept and third.last_train["loss"] == first.last_train["loss"]


def test_what_stands_for_a_masked_word_is_never_the_padding(vlm: VLM) -> None:
    tokenizer, (known, other) = vlm.tokenizer, ("a", "b")
    underscore = tokenizer("_", add_special_tokens=False).input_ids[-1]
    assert neutral_id(vlm) == underscore and underscore != tokenizer.pad_token_id
    tokenizer.unk_token = tokenizer.pad_token  # as in LLaMA's first tokenizers
    assert neutral_id(vlm) == underscore
    tokenizer.unk_token = known
    assert neutral_id(vlm) == tokenizer.unk_token_id == tokenizer.convert_tokens_to_ids(known) != underscore
    tokenizer.mask_token = other
    assert neutral_id(vlm) == tokenizer.convert_tokens_to_ids(other) != tokenizer.unk_token_id


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_word_is_what_it_is_whatever_is_embedded_beside_it(material: Material, tmp_path: Path, kind: str) -> None:
    """CLIP reads a text at its end token, SigLIP at the last place of all, padding or not."""
    vlm, store, size = material.vlm, material.store, {"height": 32, "width": 32}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(vlm.tokenizer), "max_position_embeddings": 24, "eos_token_id": vlm.eos_id,
            "bos_token_id": 1, "projection_size": 16}  # fmt: skip
    vision = {**small, "image_size": 32, "patch_size": 16}
    folder = tmp_path / kind
    vlm.tokenizer.padding_side = "right"  # as theirs
    if kind == "clip":
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
        CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), vlm.tokenizer).save_pretrained(folder)
    else:
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
        SiglipProcessor(SiglipImageProcessor(size=size), vlm.tokenizer).save_pretrained(folder)
    embedder = ClipEmbedder(str(folder), store, "{}</s>")
    alone, beside = embedder.words(["dog"]), embedder.words(["dog", "something longer, of many tokens"])
    torch.testing.assert_close(beside[:1], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(beside[0], beside[1], atol=1e-3)
    assert embedder.images([material.pairs.rows[0].images[0]]).shape == alone.shape


def test_the_nearest_image_is_the_most_similar_of_other_content(material: Material) -> None:
    vlm, store = material.vlm, material.store
    images = list(dict.fromkeys(row.images[0] for row in material.pairs.rows))
    assert len(images) == 3
    table = RelevanceTable(material.folder / "relevance", PolicyEmbedder(vlm, store), store)
    table.fill(images, ())
    for name, vector in zip(images, [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], strict=True):
        table._vectors[table._image_name(name)] = torch.tensor(vector)
    similar = table.nearest(images)
    assert similar == {images[0]: images[1], images[1]: images[0], images[2]: images[1]}
    corrupt = ImageCorrupter(vlm, store, Corruption("nearest"), images, similar)
    shown = corrupt(images[2], generator(0, "a", 0)).tensors["pixel_values"]
    assert torch.equal(shown, store.prepared(images[1]).tensors["pixel_values"])
    with pytest.raises(UserError, match="two different images"):
        table.nearest(images[:1] * 2)


def test_re_align_takes_the_nearest_image_by_itself(material: Material) -> None:
    batch = material.batch("rdpo", slice(0, 6))
    pixels = batch.image_inputs["pixel_values"]
    for own, other in zip(batch.image_index, batch.views[CHOSEN].image_index, strict=True):
        rest = [k for k in range(3) if k != own[0]]
        assert any(torch.equal(pixels[other[0]], pixels[k]) for k in rest)
    assert list((material.folder / "relevance").glob("*.safetensors"))


def test_weights_for_the_image_alone_come_with_the_data(tiny_llava_folder: Path, tmp_path: Path) -> None:
    """OPA-DPO: 3 for an error about the image, beside the weights of the correction."""
    first, second = make_pairs(2)
    weighted = replace(
        first,
        chosen_weights=[{"start": 0, "end": 5, "weight": 2.5}],
        image_weights=[{"start": 9, "end": 14, "weight": 3.0}],
    )
    material = Material(tiny_llava_folder, write(tmp_path / "pairs", [weighted, second]))
    row = material.pairs.rows[0]
    assert row.image_weights is not None and len(row.image_weights) == len(row.chosen)
    assert row.chosen_weights is not None
    assert set(row.image_weights.tolist()) == {1.0, 3.0} and set(row.chosen_weights.tolist()) == {1.0, 2.5}
    batch = material.batch("opa_dpo", slice(0, 2))
    assert batch.chosen_weights is not None
    weights = batch.views[CHOSEN].weights
    assert weights is not None and torch.equal(weights[0], row.image_weights)
    assert torch.equal(weights[1], batch.chosen_weights[1])
    scored = material.scorer("opa_dpo")(batch)
    view = scored.view(CHOSEN)
    ratio = [side.policy - side.reference for side in (scored.chosen, view)]
    visual = (view.weights * (ratio[0] - ratio[1])).sum(-1)
    plain = build_objective({"opa_dpo": {"image": 0.0}}).loss(scored)
    found = (build_objective({"opa_dpo": {"image": 1.0}}).loss(scored) - plain).item()
    assert found == pytest.approx(torch.nn.functional.softplus(-0.1 * visual).mean().item(), abs=1e-6)


def test_no_end_is_learnt_where_an_answer_goes_on(tiny_llava_folder: Path, tmp_path: Path) -> None:
    pair = make_pairs(1)[0]
    rest = replace(pair, id="rest", unfinished=True)
    material = Material(tiny_llava_folder, write(tmp_path / "pairs", [pair, rest]))
    whole, open_end = material.pairs.rows
    for side in ("chosen", "rejected"):
        ended, going_on = getattr(whole, side).tolist(), getattr(open_end, side).tolist()
        assert ended == [*going_on, material.vlm.eos_id]
    settings = settings_for(tiny_llava_folder, write(tmp_path / "more", [
        replace(p, unfinished=True) for p in make_pairs(8)
    ]), max_steps=2)  # fmt: skip
    result = train(settings, tmp_path / "run")
    assert result.first_eval is not None and result.first_eval["eval_loss"] == pytest.approx(math.log(2), abs=1e-4)


def perturber(material: Material, cosines: dict[str, float], **options: Any) -> Perturber:
    """With a table that says of every image how near the words are: the image's axis is the first."""
    vlm, store = material.vlm, material.store
    table = RelevanceTable(material.folder / "relevance", PolicyEmbedder(vlm, store), store)
    for row in material.pairs.rows:
        table._vectors[table._image_name(row.images[0])] = torch.tensor([1.0, 0.0])
    for word, cosine in cosines.items():
        table._vectors[f"word:{word}"] = torch.tensor([cosine, math.sqrt(1 - cosine**2)])
    return Perturber(vlm, table, **options)


COSINES = {"Is": 0.21, "there": 0.25, "a": 0.26, "dog": 0.5, "in": 0.27, "the": 0.28, "image": 0.2, "Please": 0.31,
           "answer": 0.32, "yes": 0.4, "or": 0.33, "no": 0.41}  # fmt: skip


def asked(material: Material) -> EncodedPair:
    row = next(row for row in material.pairs.rows if row.words and "dog" in [word for word, _ in row.words])
    assert row.words is not None and {word for word, _ in row.words} == set(COSINES)
    return row


def changed(material: Material, perturb: Perturber, seed: int = 0) -> set[str]:
    """The words whose tokens changed, every one of them as a whole."""
    row = asked(material)
    assert row.words is not None
    moved = {int(k) for k in torch.nonzero(perturb(row, generator(seed, "a", 0)) != row.prompt)}
    found = {word for word, places in row.words if moved & set(places)}
    assert moved == {place for word, places in row.words if word in found for place in places}
    return found


def test_the_words_furthest_from_the_image_are_masked_whole(material: Material) -> None:
    """The lead of `image` over `Is` is 0.01: omega 1e-3 takes one word, 0.02 three, the cap two."""
    assert changed(material, perturber(material, COSINES, omega=1e-3)) == {"image"}
    assert changed(material, perturber(material, COSINES, omega=0.0201)) == {"image", "Is", "there"}
    assert changed(material, perturber(material, COSINES, omega=10.0, cap=0.2)) == {"image", "Is"}
    tied = COSINES | {"Is": COSINES["image"]}
    assert changed(material, perturber(material, tied)) == set(COSINES)


def test_the_control_takes_as_many_words_but_any(material: Material) -> None:
    perturb = perturber(material, COSINES, omega=0.0201, relevant=False)
    drawn = [changed(material, perturb, seed) for seed in range(12)]
    assert {len(words) for words in drawn} == {3} and len({frozenset(words) for words in drawn}) > 6
    assert any("dog" in words for words in drawn)


def test_a_synonym_stands_token_for_token(material: Material) -> None:
    """Only synonyms of as many tokens fit; a word without one stays."""
    lexicon = {"dog": ["cat", "a word that takes many tokens"], "image": ["a word that takes many tokens"]}
    perturb = perturber(material, COSINES, mode="synonyms", omega=10.0, synonyms=lambda word: lexicon.get(word, []))
    row = asked(material)
    ids = perturb(row, generator(0, "a", 0))
    assert changed(material, perturb) == {"dog"} and len(ids) == len(row.prompt)
    asked_now = material.vlm.tokenizer.decode(ids[ids != material.vlm.image_token_id])
    assert "Is there a cat in the image? Please answer yes or no." in asked_now


def test_random_words_are_ordinary_and_drawn_by_seed(material: Material) -> None:
    perturb, row = perturber(material, COSINES, mode="replace", omega=10.0), asked(material)
    first, again, other = (perturb(row, generator(seed, "a", 0)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    tokenizer = material.vlm.tokenizer
    special = torch.tensor([*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder])
    assert not torch.isin(first[first != row.prompt], special).any()
