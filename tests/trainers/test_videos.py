"""Pairs about videos, shown as videos: the batch and the loss are those made by hand, and a run trains on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from mmpo.data.corruption import Corruption, generator
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.shards import PairDataset, PairWriter, read_pairs
from mmpo.errors import UserError
from mmpo.files.images import encode_image, load_image
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.processing import join_images, process_images, process_video
from mmpo.models.families.prompts import encode_prompt, encode_response
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import build_objective
from mmpo.trainers import reference
from mmpo.trainers.auxiliary import answer_batch, encode_samples
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore, StoredImage
from mmpo.trainers.samples import SampleQuestions
from mmpo.trainers.settings import AuxiliarySettings, SampleSettings
from mmpo.trainers.train import train
from mmpo.trainers.views.view_maker import view_maker
from mmpo.trainers.views.views import ImageCorrupter
from mmpo.video.clip import Clip
from tests.tiny import add_lora, tiny_image
from tests.tiny_videos import SIZE, VIDEO, clip, openable, save_video_model, video_model
from tests.trainers.material import settings_for

__all__ = ["openable"]

STILL = encode_image(tiny_image(7, (40, 36)))
OTHER = encode_image(tiny_image(8, (30, 30)))
CLIPS = [clip(0), clip(1, frames=6), replace(clip(0), times=(0.0, 2.0, 4.0, 6.0))]

SHOWN: list[tuple[tuple[str, ...], list[bytes], list[int]]] = [
    (("video",), [], [0]),
    (("video",), [], [0]),
    (("video", "image"), [STILL], [1]),
    (("image", "video", "image"), [OTHER, STILL], [0]),
    (("image",), [STILL], []),
    ((), [], []),
]
"""Of each pair the parts of its prompt, its images and its clips."""


def prompt(kinds: tuple[str, ...], question: str = "What happens?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]}]


def video(given: Clip) -> dict[str, Any]:
    return {"frames": list(given.frames), "times": list(given.times)}


def make(number: int, kinds: tuple[str, ...], images: list[bytes], clips: list[Clip], **fields: Any) -> PreferencePair:
    return PreferencePair(
        id=f"pair-{number}",
        prompt=prompt(kinds),
        chosen=[text_message("assistant", "There is a dog." + " It is red." * (number % 2))],
        rejected=[text_message("assistant", "There is a cat and a ball.")],
        images=images,
        videos=[video(one) for one in clips] or None,
        **fields,
    )


def pairs() -> list[PreferencePair]:
    return [make(n, kinds, images, [CLIPS[k] for k in clips]) for n, (kinds, images, clips) in enumerate(SHOWN)]


def write(folder: Path, made: list[PreferencePair]) -> Path:
    with PairWriter(folder, recipe={"by": "test"}) as writer:
        for pair in made:
            writer.add(pair)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("video-pairs"), pairs())


def encode(vlm: VLM, folder: Path, **limits: Any) -> tuple[EncodedPairs, ImageStore]:
    store = ImageStore(vlm, 2**24, limits.pop("max_pixels", None))
    return encode_pairs(vlm, read_pairs(folder), store, root=folder, dataset=PairDataset(folder), **limits), store


def by_hand(vlm: VLM, *, native: bool) -> PairBatch:
    """The batch of all pairs without the trainer's help; nothing is shared between pairs."""
    parts, prompts, index = [], [], []
    for kinds, images, clips in SHOWN:
        waiting = {"image": iter(images), "video": iter(clips)}
        stills = len(images) + (0 if native else sum(len(CLIPS[k].frames) for k in clips))
        own, content = [], []
        for kind in kinds:
            source = next(waiting[kind])
            if kind == "video" and native:
                frames = [load_image(frame) for frame in CLIPS[source].frames]
                own.append(process_video(vlm, frames, CLIPS[source].times))
                content.append("video")
                continue
            for one in CLIPS[source].frames if kind == "video" else [source]:
                own.append(process_images(vlm, [load_image(one)], several=stills > 1))
                content.append("image")
        placeholders = [part.placeholders[0] for part in own]
        prompts.append(torch.tensor(encode_prompt(vlm, prompt(tuple(content)), placeholders)))
        index.append(list(range(len(parts), len(parts) + len(own))))
        parts += own
    return PairBatch(
        ids=[pair.id for pair in pairs()],
        prompt_ids=prompts,
        chosen_ids=[torch.tensor(encode_response(vlm, pair.chosen_text)) for pair in pairs()],
        rejected_ids=[torch.tensor(encode_response(vlm, pair.rejected_text)) for pair in pairs()],
        image_inputs=join_images([part.tensors for part in parts]),
        image_index=index,
    )


def dpo(scorer: PairScorer, batch: PairBatch) -> torch.Tensor:
    logps = scorer(batch)
    margin = logps.chosen.policy_sum - logps.chosen.reference_sum
    margin = margin - (logps.rejected.policy_sum - logps.rejected.reference_sum)
    return -logsigmoid(0.1 * margin).mean()


@pytest.mark.parametrize("mode", ["native", "frames"])
@pytest.mark.parametrize("name", VIDEO)
def test_the_batch_and_the_loss_are_those_made_by_hand(name: str, mode: Any, folder: Path) -> None:
    """Images, videos and words in one batch, and in one prompt."""
    vlm = replace(add_lora(video_model(name), spread=0.1), video_input=mode)
    encoded, store = encode(vlm, folder)
    assert len(encoded) == len(SHOWN) and not encoded.dropped
    batch, hand = PairCollator(store)(encoded.rows)["batch"], by_hand(vlm, native=mode == "native")
    assert [ids.tolist() for ids in batch.prompt_ids] == [ids.tolist() for ids in hand.prompt_ids]
    assert batch.image_tokens is not None
    if mode == "native":
        assert batch.image_index[0] == batch.image_index[1] and len(batch.image_index[3]) == 3
        assert len(batch.image_tokens) == (5 if vlm.family.count_key else 4), "each clip and image is there once"
    # What is embedded stays in the data set.
    assert {type(source) for source, _ in store._sources.values()} == {StoredImage}
    expected = dpo(PairScorer(vlm, sharing="off"), hand)
    torch.testing.assert_close(dpo(PairScorer(vlm, sharing="on"), batch), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(dpo(PairScorer(vlm, sharing="off"), batch), expected, rtol=0, atol=1e-5)


def test_the_modes_differ_and_auto_is_native(folder: Path) -> None:
    vlm = video_model("qwen2_5_vl")
    lengths = {}
    for mode in ("auto", "native", "frames"):
        encoded, store = encode(replace(vlm, video_input=mode), folder)  # type: ignore[arg-type]
        lengths[mode] = [len(row.prompt) for row in encoded.rows]
        assert all(map(store.is_clip, encoded.rows[0].images)) == (mode != "frames")
    assert lengths["auto"] == lengths["native"]
    assert lengths["frames"][0] > lengths["native"][0] and lengths["frames"][4:] == lengths["native"][4:]


def test_times_tell_clips_apart(tmp_path: Path) -> None:
    """The same frames at other times are another video, in the batch, in the prompts and in every cache."""
    folder = write(tmp_path, [make(0, ("video",), [], [CLIPS[0]]), make(1, ("video",), [], [CLIPS[2]])])
    for name in ("qwen3_vl", "qwen2_5_vl", "video_llava"):
        encoded, store = encode(video_model(name), folder)
        first, second = (row.images[0] for row in encoded.rows)
        assert first != second and store.content(first) != store.content(second)
        assert reference.pair_key(encoded.rows[0], store) != reference.pair_key(
            replace(encoded.rows[0], images=(second,)), store
        )
        same = torch.equal(encoded.rows[0].prompt, encoded.rows[1].prompt)
        assert same == (name != "qwen3_vl"), "this family writes the times into its prompts"


def test_frames_of_files_are_known_by_content(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encode_image(tiny_image(number, SIZE)))
    store = ImageStore(video_model("video_llava"), 0)
    keys = [store.add(f"{number}.png", tmp_path) for number in range(2)]
    before = store.content(store.add_clip(keys, [0.0, 1.0]))
    embedded = ImageStore(video_model("video_llava"), 0)
    same = [embedded.add(encode_image(tiny_image(number, SIZE))) for number in range(2)]
    assert embedded.content(embedded.add_clip(same, [0.0, 1.0])) == before
    (tmp_path / "1.png").write_bytes(encode_image(tiny_image(5, SIZE)))
    changed = ImageStore(video_model("video_llava"), 0)
    keys = [changed.add(f"{number}.png", tmp_path) for number in range(2)]
    assert changed.content(changed.add_clip(keys, [0.0, 1.0])) != before


def test_a_clip_has_the_pixels_of_its_frames(folder: Path) -> None:
    vlm = video_model("qwen2_5_vl")
    whole, _ = encode(vlm, folder)
    budget = 2 * SIZE[0] * SIZE[1]
    encoded, store = encode(vlm, folder, max_pixels_per_pair=budget)
    key = encoded.rows[0].images[0]
    sizes = [store.picture(frame).size for frame in store.stills(key)]
    assert sizes == sizes[:1] * 4 and 0.8 * budget < sum(w * h for w, h in sizes) <= budget
    assert len(encoded.rows[0].prompt) < len(whole.rows[0].prompt)
    assert reference.pair_key(encoded.rows[0], store) != reference.pair_key(whole.rows[0], encode(vlm, folder)[1])
    each, store = encode(vlm, folder, max_pixels=SIZE[0] * SIZE[1] // 4)
    assert {store.picture(frame).size for frame in store.stills(each.rows[0].images[0])} == {(14, 14)}


def test_broken_and_uneven_videos_are_put_aside(tmp_path: Path) -> None:
    cut = Clip((*CLIPS[0].frames[:3], CLIPS[0].frames[3][:60]), CLIPS[0].times)  # type: ignore[index]
    uneven = Clip((*CLIPS[0].frames[:3], OTHER), CLIPS[0].times)
    made = [make(n, ("video",), [], [one]) for n, one in enumerate([CLIPS[0], cut, uneven])]
    gone = PreferencePair(**{**vars(make(3, (), [], [])), "prompt": prompt(("video",)), "videos": [{"path": "no.mp4"}]})
    folder = write(tmp_path, [*made, gone])
    for name in ("llava_next_video", "video_llava"):
        found: dict[str, str] = {}
        encoded, _ = encode(
            video_model(name), folder, on_reject=lambda id, error, f=found: f.update({id: error.reason})
        )
        assert [row.id for row in encoded.rows] == ["pair-0"]
        assert found == {"pair-1": "truncated", "pair-2": "uneven_frames", "pair-3": "video_missing"}


@pytest.mark.parametrize("name", ["llava_onevision", "qwen3_vl", "video_llava"])
def test_the_reference_cache(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "reference_identity", lambda vlm, *of: name)  # these models lie in no folder
    tuned = add_lora(video_model(name), spread=0.1)
    encoded, store = encode(tuned, folder)
    cache = reference.cached_reference(tuned, encoded, store, tmp_path, [[0, 1, 2], [3, 4, 5]])
    batch = PairCollator(store)(reference.with_reference(encoded, cache, store).rows)["batch"]
    kept, fly = PairScorer(tuned, sharing="on", reference="cached")(batch), PairScorer(tuned, sharing="on")(batch)
    torch.testing.assert_close(kept.chosen.reference, fly.chosen.reference, rtol=0, atol=1e-5)
    as_images, other_store = encode(replace(tuned, video_input="frames"), folder)
    known = [reference.pair_key(row, other_store) in cache.rows for row in as_images.rows]
    assert known == [False] * 4 + [True] * 2, "shown otherwise, a pair with a video is another pair"


# ---- what objectives and callbacks make of clips


@pytest.mark.parametrize("kind", ["crop", "rotate", "pixel_mask", "diffusion", "black", "other"])
def test_a_corrupted_clip_is_as_long(kind: Any, folder: Path) -> None:
    vlm = video_model("qwen2_5_vl")
    encoded, store = encode(vlm, folder)
    images = [key for row in encoded.rows for key in row.images]
    corrupt = ImageCorrupter(vlm, store, Corruption(kind), images)
    for key in encoded.rows[2].images:
        made, again = (corrupt(key, generator(0, "x", 0)) for _ in range(2))
        plain = store.prepared(key)
        assert made.placeholders == plain.placeholders and made.tensors.keys() == plain.tensors.keys()
        name = "pixel_values_videos" if store.is_clip(key) else "pixel_values"
        assert torch.equal(made.tensors[name], again.tensors[name])
        assert not torch.allclose(made.tensors[name], plain.tensors[name])
        if kind == "other" and store.is_clip(key):
            other = encoded.rows[0].images[0]  # of four frames, where this one has six
            frames = [store.picture(store.stills(other)[k]) for k in (0, 1, 1, 2, 2, 3)]
            same = process_video(vlm, frames, CLIPS[1].times)
            assert torch.equal(made.tensors[name], same.tensors[name])


def test_frames_are_cropped_alike() -> None:
    """Of a clip whose frames are equal, the cropped frames are equal."""
    vlm = video_model("llava_next_video")
    store = ImageStore(vlm, 0)
    still = store.add(STILL)
    key = store.add_clip([still] * 3, [0.0, 1.0, 2.0])
    made = ImageCorrupter(vlm, store, Corruption("crop"), [key])(key, generator(0, "x", 0))
    frames = made.tensors["pixel_values_videos"]
    assert len(frames) == 3 and torch.equal(frames[0], frames[2])
    with pytest.raises(UserError, match="two different videos"):
        ImageCorrupter(vlm, store, Corruption("other"), [key, still, store.add(OTHER)])


@pytest.mark.parametrize("objective", ["mdpo", "vdpo", "tars", "tars_official"])
def test_views_of_pairs_about_videos(objective: str, tmp_path: Path, openable: None) -> None:
    made = [make(n, kinds, images, [CLIPS[k] for k in clips]) for n, (kinds, images, clips) in enumerate(SHOWN[:4])]
    folder = write(tmp_path / "pairs", made)
    vlm = add_lora(load_vlm(save_video_model("qwen2_vl", tmp_path / "model"), device="cpu"), spread=0.1)
    store = ImageStore(vlm, 2**24)
    encoded = encode_pairs(vlm, read_pairs(folder), store, root=folder, dataset=PairDataset(folder), words=True)
    settings = settings_for(Path(vlm.source), folder, objective={objective: {}})
    loss = build_objective({objective: {}})
    maker = view_maker(settings, loss, vlm, store, encoded.rows)
    assert maker is not None
    batch = PairCollator(store, maker.add)(encoded.rows)["batch"]
    shared, plain = (PairScorer(vlm, sharing=sharing, hidden=loss.hidden)(batch) for sharing in ("on", "off"))  # type: ignore[arg-type]
    assert loss.loss(shared).isfinite()
    for name, view in shared.views.items():
        torch.testing.assert_close(view.policy, plain.views[name].policy, rtol=0, atol=1e-5)


def test_samples_ask_about_the_video(folder: Path) -> None:
    vlm = add_lora(video_model("llava_next_video"), spread=0.1)
    encoded, store = encode(vlm, folder)
    own = SampleQuestions(vlm, store, encoded.rows[:1], SampleSettings(n=1, max_new_tokens=4))
    assert "<video>" not in own()[0]["prompt"] and "What happens?" in own()[0]["prompt"]
    asked = SampleQuestions(
        vlm, store, encoded.rows[2:3], SampleSettings(n=1, max_new_tokens=4, prompts=["What happens?"])
    )
    (question,) = asked._questions
    assert question.ids == encoded.rows[2].prompt.tolist()


@pytest.mark.parametrize("mode", ["native", "frames"])
def test_auxiliary_answers_about_videos(mode: Any, folder: Path) -> None:
    """Learnt beside the pairs are the prompts of the pairs, whatever they show."""
    vlm = replace(video_model("llava_onevision"), video_input=mode)
    encoded, store = encode(vlm, folder)
    samples = encode_samples(vlm, AuxiliarySettings(data=folder), store)
    assert [sample.prompts[0].tolist() for sample in samples.rows] == [row.prompt.tolist() for row in encoded.rows]
    assert [sample.images for sample in samples.rows] == [row.images for row in encoded.rows]
    batch = answer_batch(samples.rows, store)
    assert batch.image_index == PairCollator(store)(encoded.rows)["batch"].image_index


# ---- whole runs


@pytest.mark.parametrize("mode", ["native", "frames"])
@pytest.mark.parametrize("name", ["llava_next_video", "llava_onevision", "qwen2_5_vl"])
def test_a_run(name: str, mode: str, folder: Path, tmp_path: Path, openable: None) -> None:
    """Two steps of DPO on a saved model; the first loss is log 2, and the reference may come from its cache."""
    model = save_video_model(name, tmp_path / "model")
    settings = settings_for(
        model, folder, video_input=mode, max_steps=2, batch_size=3, logging_steps=1, eval_fraction=0.4,
        samples={"n": 1, "max_new_tokens": 4}, learning_rate=5e-3, warmup=0,
    )  # fmt: skip
    result = train(settings, tmp_path / "run")
    assert result.steps == 2 and result.pairs + result.eval_pairs == len(SHOWN) and not result.dropped
    assert result.first_eval is not None and result.first_eval["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[0] == pytest.approx(0.693147, abs=1e-5) and losses[1] < losses[0]
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 2
    pairs_copy = write(tmp_path / "pairs", pairs())  # the cache lies beside the pairs
    again = train(settings.model_copy(update={"pairs": pairs_copy, "cache_reference": True}), tmp_path / "cached")
    assert again.last_train["loss"] == pytest.approx(result.last_train["loss"], abs=1e-5)


def test_native_is_refused_where_it_can_not_be(folder: Path, tiny_llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="LLaVA takes no videos") as caught:
        train(settings_for(tiny_llava_folder, folder, video_input="native", max_steps=1), tmp_path)
    assert "video_input: frames" in str(caught.value.hint)
    with pytest.raises(UserError, match="video_input='video'"):
        load_vlm(tiny_llava_folder, video_input="video")  # type: ignore[arg-type]
