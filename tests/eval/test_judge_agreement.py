from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmpo.cli.app import load_commands
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.eval.judge_agreement import Compared, agreement, compared
from mmpo.files.images import encode_image
from tests.chat.server import ChatServer
from tests.tiny import tiny_image


def row(number: int, first: tuple[float, float], second: tuple[float | None, float | None]) -> Compared:
    return Compared(str(number), f"v{number // 2}", first, second)


def test_numbers() -> None:
    rows = [
        row(0, (5, 1), (4, 2)),
        row(1, (4, 2), (5, 1)),
        row(2, (5, 2), (1, 3)),
        row(3, (4, 1), (3, 3)),
        row(4, (4, 1), (None, 3)),
    ]
    found = agreement(rows, "a", "b", samples=200)
    assert (found.pairs, found.judged, found.ties, found.unjudged) == (5, 4, 1, 1)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.pearson is not None and 0 < found.pearson < 1
    low, high = found.intervals["agreement"] or (0, 0)
    assert low <= 2 / 3 <= high
    assert agreement(rows, "a", "b", samples=200) == found
    perfect = agreement([row(i, (5, 1), (5, 1)) for i in range(4)], "a", "b", samples=50)
    assert (perfect.agreement, perfect.pearson) == (1.0, pytest.approx(1.0))
    nothing = agreement([], "a", "b")
    assert nothing.agreement is None and nothing.pearson is None


def pair(number: int, **changes: object) -> PreferencePair:
    fields: dict[str, object] = {
        "id": str(number),
        "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": f"What {number}?"}]}],
        "chosen": [text_message("assistant", f"good {number}")],
        "rejected": [text_message("assistant", f"bad {number}")],
        "videos": [{"frames": [encode_image(tiny_image(number)), encode_image(tiny_image(9))], "times": [0.0, 1.0]}],
        "scores": {"chosen_reward": 5.0, "rejected_reward": 1.0},
        "provenance": {"sources": [f"v{number}"], "judge": "rules"},
    }
    return PreferencePair(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_command_asks_with_frames(tmp_path: Path) -> None:
    with PairWriter(tmp_path / "pairs") as writer:
        for number in range(4):
            writer.add(pair(number))
    answer = lambda prompt: "Explanation: seen\nScore: " + ("5" if ("good" in prompt) != ("good 3" in prompt) else "2")  # noqa: E731
    with ChatServer(answer) as server:
        words = [f"base_url={server.url}", "backend=server", f"model={server.model}"]
        result = CliRunner().invoke(
            load_commands(),
            [
                "eval",
                "judge-agreement",
                str(tmp_path / "pairs"),
                "--json",
                "--judge-cache",
                str(tmp_path / "c.jsonl"),
                *(part for word in words for part in ("--judge", word)),
            ],
        )
        assert result.exit_code == 0, result.output
        images = [part for part in server.requests[0]["messages"][-1]["content"] if part["type"] == "image_url"]
    found = json.loads(result.stdout)
    assert found["judged"] == 4 and found["ties"] == 1 and found["agreement"] == 1.0
    assert found["first"] == "rules" and len(images) == 2


def test_pairs_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="no rewards"):
        compared([pair(1, scores=None)], [(1.0, 2.0)])
