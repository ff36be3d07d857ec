"""A few pairs to review, and a client that was let in."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.review.serve import opened_session
from mmpo.review.session import ReviewSession

pytest.importorskip("starlette", reason="pip install 'mmpo[review]'")

HOSTILE = "</p><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> {{ 7*7 }}"


def png(color: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(out, "PNG")
    return out.getvalue()


def write_pairs(folder: Path, count: int = 6, *, chosen: str = "A dog sits on a mat.") -> Path:
    with PairWriter(folder, scores=["chosen_reward", "rejected_reward", "margin"]) as writer:
        for number in range(count):
            ours = float(number - 1)
            writer.add(
                PreferencePair.simple(
                    id=f"pair-{number}",
                    image=png(),
                    question="What is there?",
                    chosen=chosen,
                    rejected=f"A cat and {number} dogs sit on a mat.",
                    scores={"chosen_reward": ours, "rejected_reward": 0.0, "margin": ours},
                )
            )
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs")


@pytest.fixture
def session(pairs: Path) -> Iterator[ReviewSession]:
    with opened_session(pairs, reviewer="ann") as opened:
        yield opened
