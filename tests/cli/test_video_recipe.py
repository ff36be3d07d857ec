"""One recipe from clips to a scorecard, with a small model that takes videos: built, trained and asked alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.reader import read_pairs
from tests.chat.server import ChatServer
from tests.cli.conftest import Invoke
from tests.tiny_videos import openable, save_video_model
from tests.video import clips

__all__ = ["openable"]

CAPTION = " ".join(["A red box moves slowly through a grey scene."] * 3)

RECIPE = """\
model: model
video_input: {mode}
build:
  builder: video_rewards
  videos: videos.jsonl
  frames: {{num: 4, max_side: 40}}
  samples: 12
  temperature: 1.5
  max_new_tokens: 40
  judge: {{by: model, model: {judge}}}
train:
  max_steps: 2
  batch_size: 2
  eval_fraction: 0
eval:
  benchmarks: [video_qa]
  bootstrap: {{samples: 200}}
  judge: ${{build.judge.model}}
  video_qa: {{questions: videos.jsonl, frames: {{num: 4, max_side: 40}}, protocol: reward, max_new_tokens: 8}}
"""


def judge(prompt: str) -> str:
    """Some answers to each question are good, by their letters."""
    return f"Explanation: by the letters\nScore: {1 + sum(prompt.encode()) % 5}"


@pytest.mark.parametrize("mode", ["native", "frames"])
def test_the_whole_road(mode: str, here: Path, mmpo: Invoke, openable: None) -> None:
    save_video_model("llava_next_video", here / "model", brief=True)
    rows = []
    for number in range(3):
        clips.write(here / f"{number}.mp4", n=12)
        qa = [{"question": f"What moves in part {k}?", "answer": "A red box."} for k in range(2)]
        rows.append({"id": str(number), "video": f"{number}.mp4", "caption": CAPTION, "qa": qa})
    (here / "videos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer(judge) as server:
        chat = json.dumps(server.settings().model_dump(exclude_none=True))
        (here / "clips.yaml").write_text(RECIPE.format(mode=mode, judge=chat))
        done = mmpo("run", "clips.yaml", "--out", "run")
    assert done.exit_code == 0, done.stderr + str(done.exception)
    pair = next(read_pairs("run/build/pairs"))
    assert [part["type"] for part in pair.prompt[0]["content"]] == ["video", "text"]
    result = json.loads((here / "run/train/train_result.json").read_text())
    assert result["steps"] == 2 and not result["dropped"]
    assert json.loads((here / "run/train/settings.json").read_text())["video_input"] == mode
    card = json.loads((here / "run/eval/scorecard.json").read_text())
    assert {row["metric"] for row in card["rows"]} >= {"accuracy", "score"}


@pytest.mark.parametrize("demo", ["video", "radiology"])
def test_a_demo_with_a_wrong_model_draws_nothing(demo: str, here: Path, mmpo: Invoke) -> None:
    done = mmpo("demo", demo, "--model", "nowhere", "--out", "run")
    assert done.exit_code == 2 and "nowhere: not a model folder" in done.stderr
    assert not (here / "run").exists()
