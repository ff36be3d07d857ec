"""A campaign of faults against the commands, and its figures in one table. It takes minutes:

    python -m pytest tests/faults/test_campaign.py -m slow -q

MMPO_CAMPAIGN=0.2 makes it a fifth as large; MMPO_CAMPAIGN_SEED draws other moments and inputs. Kills are real SIGKILLs
at random moments of real commands; each killed run is started again until it ends and must then hold the bytes of one
that was never touched.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmpo.chat import ChatReply, ChatRequest, open_chat
from mmpo.cli.app import load_commands
from mmpo.errors import Quarantined
from tests.chat.server import FAULTS, ChatServer
from tests.faults.commands import RUN_COMMANDS, World, artefacts, finish, start
from tests.tiny import tiny_image

pytestmark = pytest.mark.slow

SIZE = float(os.environ.get("MMPO_CAMPAIGN", "1"))
SEED = int(os.environ.get("MMPO_CAMPAIGN_SEED", "0"))
COMMANDS = ("convert", *RUN_COMMANDS)
ROUNDS = {"convert": 12, "build": 4, "train": 4, "eval": 4, "run": 4}
"""Runs of each command; each is killed twice."""
NEEDS = {"train": "build", "eval": "train"}
"""The section before, which is done beforehand."""


def times(number: int) -> int:
    return max(1, round(number * SIZE))


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What the tests found, printed when all are done."""
    found: dict[str, str] = {}
    yield found
    lines = ["", "| fault | figures |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in found.items())]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines))


@pytest.fixture(scope="module")
def world(parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"), parrot_folder)


@pytest.fixture(scope="module")
def whole(world: World) -> dict[str, tuple[Path, float]]:
    """For each command a folder in which it was never disturbed, and how many seconds it took."""
    done: dict[str, tuple[Path, float]] = {}
    for command in COMMANDS:
        out = world.folder / "whole" / command / "out"
        _prepare(command, out, done)
        began = time.monotonic()
        code, said = finish(start(world.words(command, out)))
        assert code == 0, said
        done[command] = (out, time.monotonic() - began)
    return done


def _prepare(command: str, out: Path, whole: dict[str, tuple[Path, float]]) -> None:
    if command in NEEDS:
        shutil.copytree(whole[NEEDS[command]][0], out)


def test_kills(world: World, whole: dict[str, tuple[Path, float]], table: dict[str, str]) -> None:
    rng, kills, runs = random.Random(SEED), Counter[str](), 0
    takes = {command: seconds for command, (_, seconds) in whole.items()}
    for command in COMMANDS:
        for number in range(times(ROUNDS[command])):
            out = world.folder / "killed" / f"{command}-{number}" / "out"
            _prepare(command, out, whole)
            for _ in range(2):
                process = start(world.words(command, out))
                time.sleep(rng.uniform(0.05, 1.0) * takes[command])
                process.kill()
                killed = finish(process)[0] == -9
                kills[command] += killed
                takes[command] *= 1 if killed else 0.8  # the machine is less busy than when it was timed
            finished = command == "convert" and out.exists()  # it was quicker than the kill
            code, said = (0, "") if finished else finish(start(world.words(command, out)))
            assert code == 0 and "Traceback" not in said, said
            made, wanted = artefacts(out), artefacts(whole[command][0])
            assert made.keys() == wanted.keys()
            assert [name for name in wanted if made[name] != wanted[name]] == [], f"{command}, run {number}"
            left = [path for path in out.parent.rglob(".*") if path.name.endswith((".tmp", "-lock"))]
            assert not left, "nothing of the dead is left"
            runs += 1
            shutil.rmtree(out.parent)
    assert kills.total() > runs, kills
    each = ", ".join(f"{command} {count}" for command, count in kills.items())
    table["kills"] = f"{kills.total()} in {runs} runs ({each}); all ended with the same artefacts"


def test_two_processes(world: World, whole: dict[str, tuple[Path, float]], table: dict[str, str]) -> None:
    """Two start at one moment on one folder: one is refused or finds the work done, and the artefacts are those of
    one."""
    refused = pairs = 0
    for command in COMMANDS:
        for number in range(times(3)):
            out = world.folder / "two" / f"{command}-{number}" / "out"
            _prepare(command, out, whole)
            ended = [finish(process) for process in [start(world.words(command, out)) for _ in range(2)]]
            codes = sorted(code for code, _ in ended)
            assert codes in ([0, 2], [0, 0]) and not any("Traceback" in said for _, said in ended), ended
            assert all("in use" in said or "not empty" in said for code, said in ended if code == 2), ended
            assert artefacts(out) == artefacts(whole[command][0]), command
            refused, pairs = refused + codes.count(2), pairs + 1
            shutil.rmtree(out.parent)
    table["two processes"] = f"{pairs} pairs of commands on one folder; {refused} were refused, no artefact differs"


def test_judge_faults(table: dict[str, str], tmp_path: Path) -> None:
    """Most first tries fail and some all; every request ends as reply or in quarantine, and none is paid for twice."""
    rng, count = random.Random(SEED), times(400)
    others = ("400", "401", "404", "503", "wrong_model", "empty", "filtered")
    script = {str(n): [rng.choice([*FAULTS, *others, None]) for _ in range(4)] for n in range(count)}

    def fault(prompt: str, attempt: int) -> str | None:
        return script[prompt][attempt - 1] if attempt <= 4 else None

    with ChatServer(lambda prompt: f"you said {prompt}", fault) as server:
        settings = server.settings(retries=3, timeout=0.5, give_up_after=None, concurrency=16)
        with open_chat(settings, tmp_path / "replies.jsonl") as chat:
            results = list(chat.replies([ChatRequest.ask(str(number)) for number in range(count)]))
        good = [n for n, result in enumerate(results) if isinstance(result, ChatReply)]
        assert [result.text for result in results if isinstance(result, ChatReply)] == [f"you said {n}" for n in good]
        assert all(isinstance(result, ChatReply | Quarantined) for result in results)
        assert max(server.answered.values()) == 1 and max(server.attempts.values()) <= 4
        asked = len(server.requests)
        with open_chat(settings, tmp_path / "replies.jsonl") as chat:
            list(chat.replies([ChatRequest.ask(str(number)) for number in good]))
        assert len(server.requests) == asked
        table["judge faults"] = (
            f"{server.faults.total()} faults of {len(server.faults)} kinds in {asked} requests; {len(good)} of {count} "
            f"questions answered, {count - len(good)} quarantined, none asked again"
        )


# --- bad inputs -------------------------------------------------------------------------------------------------------

NASTY = (
    b"[" * 5000, b"{" * 500, b'"\\ud800"', b"1" * 400, b"NaN", b"null", b"../../etc/passwd", b"\x00", b"\xff\xfe",
    b"\xef\xbb\xbf", b"&a [*a]", b"${a}", b"!!python/object:os.system", b"\x1b[2J", b"{{ 7*7 }}", b"\t", b"-", b"''",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three of: a bit turned, a piece cut out or doubled, something nasty put in, the end cut."""
    for _ in range(rng.randint(1, 3)):
        start_, length = rng.randrange(len(data) + 1), rng.randrange(1, 40)
        how = rng.randrange(5)
        if how == 0 and data:
            place = rng.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        elif how == 1:
            data = data[:start_] + data[start_ + length :]
        elif how == 2:
            data = data[: start_ + length] + data[start_:]
        elif how == 3:
            data = data[:start_] + rng.choice(NASTY) + data[start_:]
        else:
            data = data[:start_]
    return data


def test_bad_inputs(world: World, table: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were spoilt: each command ends with its account, or with one line that says what is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMPO_DEBUG", raising=False)
    app, rng = load_commands(), random.Random(SEED)
    outcomes, traces = Counter[str](), list[str]()
    rows = [
        {"image": "a.png", "question": f"What is in picture {n}?", "chosen": "A dog.", "rejected": "A cat.", "id": n}
        for n in range(4)
    ]
    tiny_image(0).save(tmp_path / "a.png")
    questions = [{"question_id": n, "image": "a.png", "text": "Is there a dog?", "label": "yes"} for n in range(4)]
    answers = [{"question_id": n, "question": "Is there a dog?", "answer": "Yes", "text": "Yes"} for n in range(4)]
    sources = {
        "pairs.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows),
        "pairs.json": json.dumps(rows).encode(),
        "pairs.parquet": next((world.folder / "to-convert" / "data").iterdir()).read_bytes(),
        "recipe.yaml": json.dumps(json.loads((world.folder / "all.yaml").read_text()), indent=1).encode(),
        "answers.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in answers),
    }
    (tmp_path / "questions.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in questions))
    for name, data in sources.items():
        for number in range(times(120)):
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            file = folder / name
            file.write_bytes(mutated(data, rng))
            words = {
                "recipe.yaml": ["recipe", "check", str(file)],
                "answers.jsonl": ["eval", "score", "pope", "--questions", "questions.jsonl", "--answers", str(file)],
            }.get(name, ["convert", str(file), str(folder / "out"), "--images", str(tmp_path)])
            done = CliRunner().invoke(app, words, prog_name="mmpo")
            odd = not isinstance(done.exception, SystemExit | None) or done.exit_code not in (0, 2)
            if odd or "Traceback" in done.output or "please report" in done.output:
                traces.append(f"{name} {number}: {done.exception!r} {file.read_bytes()[:300]!r}")
            else:
                outcomes["read" if done.exit_code == 0 else "refused"] += 1
            shutil.rmtree(folder)
    table["bad inputs"] = (
        f"{outcomes.total() + len(traces)} spoilt files: {outcomes['read']} read, {outcomes['refused']} refused with "
        f"one line, {len(traces)} ended in a trace"
    )
    assert not traces, "\n".join(traces)
