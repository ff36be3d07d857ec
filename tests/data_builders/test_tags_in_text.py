"""Models and annotators write `<image>` and `</s>`: a row is counted and left out, or is text; a build goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.reader import read_pairs
from mmpo.data_builders.builders import build
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.data_builders.mia.settings import MiaSettings
from mmpo.data_builders.video.settings import VideoRewardSettings
from tests.data_builders import parrot
from tests.tiny import save_model, tiny_image
from tests.video import clips

ASKED = [f"Is there a {name} in the image?" for name in ("dog", "cat", "cup")]
TAGGED = "There </s> is an <image> and a cat."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the end marker's text and a tag, whatever it is asked."""
    return save_model(parrot.teach([(text, TAGGED) for text in ASKED]), tmp_path_factory.mktemp("tagging"))


def test_mia(model: Path, tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        tiny_image(number, (60, 50)).save(tmp_path / f"{number}.png")
        answer = "No </s> dog." if number == 0 else "A <video> of a dog." if number == 1 else "No, there is none."
        rows.append({"id": f"r{number}", "image": f"{number}.png", "question": ASKED[number % 3], "answer": answer})
    (tmp_path / "records.json").write_text(json.dumps(rows))
    settings = MiaSettings.model_validate(
        {
            "builder": "mia", "model": str(model), "data": tmp_path / "records.json", "max_new_tokens": 24,
            "sequence": {"sizes": {2: 1}}, "collage": None, "pic_in_pic": None, "refusals": 0.0,
            "selection": {"attention": False, "min_perplexity": None, "min_seen": 0.0},
        }
    )  # fmt: skip
    result = build(settings, tmp_path / "run")
    for table in result.counts.values():
        assert table["in"] == sum(table.values()) - table["in"]
    assert result.counts["records"]["image_tag"] == 1, "the annotator's answer"
    assert result.counts["prompts"]["in"] == 5
    answers = result.counts["answers, sequence 2"]
    assert answers["image_tag"] >= 3
    pairs = list(read_pairs(tmp_path / "run" / "pairs"))
    assert len(pairs) == answers["paired"] and not any("<image>" in pair.rejected_text for pair in pairs)


def test_video(model: Path, tmp_path: Path) -> None:
    clips.write(tmp_path / "v.mp4", n=12)
    row = {
        "id": "v", "video": "v.mp4", "caption": " ".join(["grey"] * 30), "objects": ["cat"], "events": [],
        "qa": [{"question": f"<video>\n{text}", "answer": "Yes, there is a cat."} for text in ASKED],
    }  # fmt: skip
    (tmp_path / "videos.jsonl").write_text(json.dumps(row) + "\n")
    settings = VideoRewardSettings.model_validate(
        {
            "builder": "video_rewards", "model": str(model), "videos": str(tmp_path / "videos.jsonl"), "samples": 6,
            "max_new_tokens": 16, "threshold": 2, "frames": {"num": 1, "max_side": 48},
        }
    )  # fmt: skip
    result = build(settings, tmp_path / "run")
    assert result.counts["questions"]["in"] == 3
    answers = result.counts["answers"]
    assert answers["in"] == 18 == sum(answers.values()) - 18
    assert answers["image_tag"] > 0


def test_hallucination(tmp_path: Path) -> None:
    description = (parrot.DESCRIBE, "There is an <image> of a cat.")
    says = [description, *((text, "Yes </s>, an <image> dog.") for text in ASKED)]
    model = save_model(parrot.teach(says), tmp_path / "model")
    settings = BuildSettings.model_validate(
        {
            "model": str(model), "annotations": parrot.write_world(tmp_path / "world", 6), "prompts": [parrot.DESCRIBE],
            "qa": {"questions_per_image": 4}, "max_new_tokens": 32,
        }
    )  # fmt: skip
    result = build(settings, tmp_path / "run")
    for table in result.counts.values():
        assert table["in"] == sum(table.values()) - table["in"]
    assert result.counts["descriptions"]["image_tag"] > 0
    assert result.counts["questions"]["image_tag"] > 0
