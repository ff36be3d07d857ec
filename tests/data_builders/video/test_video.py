"""The video builder, from clips to pairs to one training step, with a real tiny model and no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version

from mmpo.chat.video_replies import Reward
from mmpo.data.card import read_card
from mmpo.data.shards import read_pairs
from mmpo.data.video_lists import read_videos
from mmpo.data_builders import units
from mmpo.data_builders.builders import build
from mmpo.data_builders.video.builder import VideoBuilder, VideoWork
from mmpo.data_builders.video.choose import choose, normalized
from mmpo.data_builders.video.rewards import VideoCandidate
from mmpo.data_builders.video.settings import VideoRewardSettings
from mmpo.errors import Quarantined, UserError
from mmpo.video import read_frames
from mmpo.video.clip import Clip
from tests.chat.server import ChatServer
from tests.tiny import contents
from tests.tiny_videos import openable, save_video_model
from tests.video import clips

__all__ = ["openable"]

# ---- which answers become a pair


@pytest.mark.parametrize(
    ("scores", "pairs", "why"),
    [
        ([5, 4, 4], [], "all_good"),
        ([1, 2], [], "all_bad"),
        ([3, 2.99], [(0, 1)], ""),
        ([None, 4, 1], [(1, 2)], ""),
        ([None, 4], [], "unscored"),
        ([], [], "unscored"),
    ],
)
def test_the_rule(scores: list[float | None], pairs: list[tuple[int, int]], why: str) -> None:
    assert choose(scores, ["x"] * len(scores)) == (pairs, why)


def test_options_of_the_rule() -> None:
    texts = ["a b c d e f", "a", "a b c d e", "a b"]
    scores: list[float | None] = [5, 3, 2, 1]
    assert choose(scores, texts, pick="extreme")[0] == [(0, 3)]
    assert choose(scores, texts, pick="closest_length")[0] in ([(0, 2)], [(1, 3)])
    assert choose(scores, texts, min_gap=4)[0] == [(0, 3)]
    assert choose([3, 2], ["a", "b"], min_gap=2) == ([], "gap")
    assert {i for i, _ in choose(scores, texts, count=2)[0]} == {0, 1}, "a fresh answer before a used one"
    assert len(choose(scores, texts, count=9)[0]) == 4
    drawn = {choose(scores, texts, seed=str(seed))[0][0] for seed in range(40)}
    assert drawn == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert all(choose(scores, texts, seed="7") == choose(scores, texts, seed="7") for _ in range(3))
    assert normalized("A dog, sits!") == normalized("a DOG sits")


# ---- the build

OBJECTS = ["cat", "dog", "bird", "cup"]
CAPTION = (
    "A grey scene in which twelve columns show a number while a small red box that stands out moves slowly from left "
    "to right below them."
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips: one of them cut off, one with a caption that says too little."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for number in range(5):
        clips.write(folder / f"v{number}.mp4", n=12 + number)
        rows.append(
            {
                "id": f"v{number}",
                "video": f"v{number}.mp4",
                "caption": CAPTION if number != 3 else "A box.",
                "qa": [
                    {"question": "Is there a dog in the image?", "answer": "Yes, there is a dog."},
                    {"question": "What is in the image?", "answer": "There is a cat on the left."},
                ],
                "objects": OBJECTS[: 1 + number % 2],
                "events": [["cat", "moves"]],
            }
        )
    whole = (folder / "v1.mp4").read_bytes()
    (folder / "v1.mp4").write_bytes(whole[: len(whole) // 2])
    path = folder / "videos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings_for(videos: Path, model: Path, **changes: Any) -> VideoRewardSettings:
    fields: dict[str, Any] = {
        "builder": "video_rewards",
        "model": str(model),
        "videos": str(videos),
        "samples": 6,
        "max_new_tokens": 12,
        "temperature": 1.5,
        "threshold": 2,
        "shard_size": 2,
        "pairs_per_question": 3,
        "frames": {"num": 3, "max_side": 48},
    }
    return VideoRewardSettings.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def built(videos: Path, parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    run = tmp_path_factory.mktemp("built")
    return run, build(settings_for(videos, parrot_folder), run)


def needs_pairs(result: Any) -> None:
    """The small model is taught in the test session, and what it then draws hangs on the version of transformers: with
    the oldest it happens to draw no good answer. With that of constraints.txt it must."""
    if not result.pairs_made and Version(transformers.__version__) < Version("5.23"):
        pytest.skip(f"taught with transformers {transformers.__version__} the small model draws no good answer")


def test_every_video_question_and_answer_is_accounted_for(built: tuple[Path, Any]) -> None:
    run, result = built
    assert result.counts["videos"]["in"] == 5 and result.counts["questions"]["in"] == 6
    assert result.counts["videos"]["decode: corrupt_video"] == 1
    assert result.counts["videos"]["caption: too_short"] == 1
    assert result.counts["answers"]["in"] == 36
    for table in result.counts.values():
        assert table["in"] == sum(count for key, count in table.items() if key != "in")
    needs_pairs(result)
    assert result.pairs_made > 0 and result.judge == "rules over annotations"
    assert sum(result.scores.values()) == result.counts["answers"]["scored"]
    assert read_card(run / "pairs")["splits"]["train"]["pairs"] == result.pairs_made


def test_pairs_hold_frames_scores_and_explanations(built: tuple[Path, Any]) -> None:
    run, _ = built
    for pair in read_pairs(run / "pairs"):
        assert [part["type"] for part in pair.prompt[0]["content"]] == ["video", "text"]
        (video,) = pair.videos or []
        assert len(video["frames"]) == 3 == len(video["times"]) and video["times"][0] == 0
        assert pair.scores is not None and pair.scores["chosen_reward"] >= 2 > pair.scores["rejected_reward"]
        about = pair.provenance
        assert about["chosen_explanation"] and about["rejected_explanation"] and about["caption"] == CAPTION
        assert about["frame_numbers"][0] == 0 and about["decoded_by"] in ("pyav", "decord")


def test_killed_and_run_again_it_ends_with_the_same_bytes(
    built: tuple[Path, Any], videos: Path, parrot_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, result = built
    settings = settings_for(videos, parrot_folder)
    expected = contents(run)
    original, calls = units.write_sealed, []

    def dies(path: Any, value: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:  # the second unit's file
            raise KeyboardInterrupt
        return original(path, value)

    monkeypatch.setattr(units, "write_sealed", dies)
    with pytest.raises(KeyboardInterrupt):
        build(settings, tmp_path)
    monkeypatch.setattr(units, "write_sealed", original)
    assert build(settings, tmp_path) == result
    assert contents(tmp_path) == expected
    assert build(settings, tmp_path) == result, "a finished build is not done again"
    with pytest.raises(UserError, match="another `samples`"):
        build(settings_for(videos, parrot_folder, samples=4), tmp_path)


def test_the_pairs_train(built: tuple[Path, Any], parrot_folder: Path) -> None:
    """A step of DPO on the pairs' frames as a list of images lowers the loss, and sharing changes no log-prob."""
    import torch

    from mmpo.models.families.loading import load_vlm
    from mmpo.models.scoring.score import PairScorer
    from mmpo.trainers.collate import PairCollator, encode_pairs
    from mmpo.trainers.images import ImageStore
    from tests.tiny import add_lora

    needs_pairs(built[1])
    run, _ = built
    vlm = add_lora(load_vlm(str(parrot_folder), dtype="float32"), spread=0.01)
    store = ImageStore(vlm, cache_bytes=2**24)
    pairs = list(read_pairs(run / "pairs"))[:3]
    encoded = encode_pairs(vlm, pairs, store, root=run / "pairs")
    assert len(encoded) == len(pairs) > 1 and not encoded.dropped
    assert all(len(row.images) == 3 for row in encoded.rows)
    assert encoded.rows[0].prompt.tolist().count(vlm.image_token_id) == 3 * 16
    batch = PairCollator(store)(encoded.rows)["batch"]
    scorer, plain = PairScorer(vlm, sharing="on"), PairScorer(vlm, sharing="off")

    def loss(logps: Any) -> torch.Tensor:
        margin = (logps.chosen.policy_sum - logps.chosen.reference_sum) - (
            logps.rejected.policy_sum - logps.rejected.reference_sum
        )
        return -torch.nn.functional.logsigmoid(0.1 * margin).mean()

    with torch.no_grad():
        torch.testing.assert_close(scorer(batch).chosen.policy, plain(batch).chosen.policy, atol=1e-4, rtol=1e-4)
    trained = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
    before = loss(scorer(batch))
    before.backward()
    with torch.no_grad():
        for parameter in trained:
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
        assert loss(scorer(batch)) < before


def script(prompt: str) -> str:
    """A judge that likes answers about the dog, a captioner and a questioner, told apart by what they are asked."""
    if "pictures are frames" in prompt:
        return CAPTION
    if "different questions" in prompt:
        return "Q1: Is there a dog in the image?\nA1: Yes, there is a dog.\nQ2: What is in the image?\nA2: A cat."
    answer = prompt.partition("Answer to rate: ")[2]
    return "**Explanation:** by the dog\n**Score:** " + ("5" if "dog" in answer else "1")


def test_captions_questions_and_rewards_from_a_server(videos: Path, parrot_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"id": f"v{n}", "video": f"v{n}.mp4"}) + "\n" for n in (0, 2)))
    faults = lambda prompt, attempt: "500" if attempt == 1 else None  # noqa: E731
    with ChatServer(script, faults) as server:
        chat = server.settings().model_dump()
        settings = settings_for(
            bare,
            parrot_folder,
            root=videos.parent,
            captioner=chat,
            questioner=chat,
            judge={"by": "model", "model": chat},
            threshold=3,
        )
        result = build(settings, tmp_path / "run")
        assert result.counts["videos"]["in"] == 2 and result.counts["questions"]["in"] == 4
        asked = sum(server.answered.values())
        pictures = [
            r
            for r in server.requests
            if any(isinstance(m["content"], list) and len(m["content"]) > 1 for m in r["messages"])
        ]
        assert pictures, "the captioner sees the frames"
        judged = [str(r["messages"]) for r in server.requests if "Answer to rate" in str(r["messages"])]
        assert judged and not any("image_url" in text for text in judged), "the judge does not"
        # All replies are kept: the same build elsewhere, given them, asks nothing.
        again = tmp_path / "again"
        again.mkdir()
        for path in (tmp_path / "run").glob("replies.*.jsonl"):
            shutil.copy(path, again)
        assert build(settings, again) == result
        assert sum(server.answered.values()) == asked
    assert contents(again / "pairs") == contents(tmp_path / "run" / "pairs")
    for pair in read_pairs(tmp_path / "run" / "pairs"):
        assert "dog" in pair.chosen_text and "dog" not in pair.rejected_text
        assert pair.provenance["chosen_explanation"] == "by the dog"


def test_nonsense_is_counted_and_a_dead_judge_stops_the_build(
    videos: Path, parrot_folder: Path, tmp_path: Path
) -> None:
    with ChatServer("I like it.") as server:
        settings = settings_for(videos, parrot_folder, judge={"by": "model", "model": server.settings().model_dump()})
        result = build(settings, tmp_path / "nonsense")
        assert result.pairs_made == 0 and result.counts["answers"]["unparsed"] > 0
        assert result.counts["questions"]["unscored"] == 6
    with ChatServer(script, lambda prompt, attempt: "500") as server:
        chat = server.settings(retries=0, give_up_after=None).model_dump()
        with pytest.raises(UserError, match="requests to the judge got no reply"):
            build(settings_for(videos, parrot_folder, judge={"by": "model", "model": chat}), tmp_path / "dead")
        assert not list((tmp_path / "dead" / "units").glob("*.json"))


def test_settings_that_do_not_fit(videos: Path, parrot_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        settings_for(videos, parrot_folder, judge={"by": "model"})
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"video": "v0.mp4"}\n')
    with pytest.raises(UserError, match="rules can't judge"):
        build(settings_for(bare, parrot_folder), tmp_path / "run")
    assert [item.id for item in read_videos(videos)] == ["v0", "v1", "v2", "v3", "v4"]


def test_a_recipe_names_the_builder(videos: Path, tmp_path: Path) -> None:
    from mmpo.recipes import load

    recipe = tmp_path / "video.yaml"
    recipe.write_text(f"model: some/model\nbuild:\n  builder: video_rewards\n  videos: {videos}\n  samples: 4\n")
    found = load(str(recipe), run=tmp_path).build
    assert isinstance(found, VideoRewardSettings) and found.samples == 4 and found.model == "some/model"
    recipe.write_text(f"model: some/model\nbuild:\n  builder: video_rewards\n  videos: {videos}\n  sampels: 4\n")
    with pytest.raises(UserError, match="did you mean samples"):
        load(str(recipe), run=tmp_path)


class Lengths:
    """Rewards answers by what they say and notes them: some of a question are good, some are bad."""

    identity = "the letters of an answer"

    def __init__(self) -> None:
        self.seen: list[VideoCandidate] = []

    def rewards(self, candidates: Sequence[VideoCandidate]) -> list[Reward | Quarantined]:
        self.seen += candidates
        return [Reward(1 + sum(candidate.text.encode()) % 5, "by its letters", "") for candidate in candidates]


@pytest.mark.parametrize("mode", ["native", "frames"])
def test_the_model_samples_about_videos_as_it_gets_them(
    mode: Any, videos: Path, tmp_path: Path, openable: None
) -> None:
    """The builder's answers are the engine's on the clip; the two ways of showing it give others."""
    from mmpo.models.families.loading import load_vlm
    from mmpo.models.generation.answer import AnswerEngine

    model = save_video_model("llava_next_video", tmp_path / "model", brief=True)
    settings = settings_for(videos, model, video_input=mode, max_new_tokens=40, samples=12, threshold=3)
    vlm = load_vlm(model, video_input=mode, device="cpu")
    rewarder = Lengths()
    engine = AnswerEngine(vlm, max_new_tokens=settings.max_new_tokens)
    item = read_videos(videos)[0]
    outcomes, _ = VideoBuilder(settings, engine, rewarder, "test").build([item])
    frames = read_frames(item.video, num=3, max_side=48, root=item.root)
    assert isinstance(outcomes[0], VideoWork) and outcomes[0].clip == Clip.of(frames)
    shown: Any = Clip.of(frames) if mode == "native" else list(Clip.of(frames).frames)
    for qa in item.qa:
        drawn = AnswerEngine(vlm).samples(
            shown, qa.question, 12, temperature=1.5, top_p=settings.top_p, max_new_tokens=40, seed=settings.seed
        )
        told = [candidate.text for candidate in rewarder.seen if candidate.question == qa.question]
        assert told and set(told) <= set(drawn)
        other = replace(vlm, video_input="frames" if mode == "native" else "native")
        assert AnswerEngine(other).samples(Clip.of(frames), qa.question, 12, seed=settings.seed) != drawn
