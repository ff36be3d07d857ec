"""`mmpo review` as a process: killed between two decisions, and among a million pairs."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.select_scale import write_many
from mmpo.data.reviews import read_reviews
from tests.faults.commands import start
from tests.review.pages import fields


def opened(folder: Path, *words: str) -> tuple[subprocess.Popen[str], httpx.Client]:
    process = start(["review", str(folder), "--reviewer", "ann", *words])
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=\S+", line):
            client = httpx.Client(base_url=found[1], timeout=60, trust_env=False)
            assert client.get(found[0]).status_code == 303
            return process, client
    raise AssertionError("".join(seen))


def decide(client: httpx.Client, row: int, verdict: str) -> httpx.Response:
    form = {**fields(client.get(f"/row/{row}").text), "verdict": verdict}
    return client.post(f"/row/{row}", data=form, headers={"origin": str(client.base_url).rstrip("/")})


def test_killed_between_two_decisions_nothing_is_lost(pairs: Path) -> None:
    process, client = opened(pairs)
    try:
        assert decide(client, 0, "accept").status_code == 303
        assert decide(client, 1, "drop").status_code == 303  # said to be kept …
    finally:
        process.kill()  # … so it is
        process.wait()
    process, client = opened(pairs)
    try:
        assert client.get("/").headers["location"] == "/row/2"
        assert decide(client, 2, "swap").status_code == 303
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "3 of 6 decided" in told
    assert [one.verdict for one in read_reviews(pairs / "reviews.jsonl")] == ["accept", "drop", "swap"]


@pytest.mark.slow
def test_answers_at_once_among_a_million_pairs(tmp_path: Path) -> None:
    write_many(tmp_path / "pairs", 1_000_000)
    process, client = opened(tmp_path / "pairs")
    try:
        row = int(client.get("/").headers["location"].rpartition("/")[2])
        seconds = []
        for _ in range(30):
            began = time.monotonic()
            page = client.get(f"/row/{row}")
            seconds.append(time.monotonic() - began)
            form = {**fields(page.text), "verdict": "accept"}
            began = time.monotonic()
            answer = client.post(f"/row/{row}", data=form, headers={"origin": str(client.base_url).rstrip("/")})
            seconds.append(time.monotonic() - began)
            row = int(answer.headers["location"].rpartition("/")[2])
    finally:
        process.kill()
        process.wait()
    print(f"median {sorted(seconds)[30] * 1000:.0f} ms, longest {max(seconds) * 1000:.0f} ms")
    assert sorted(seconds)[30] < 0.1
