"""A bit that flips in what a run goes on from is noticed: an older checkpoint takes over, or the file is named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpo.chat.cache import ReplyCache
from mmpo.chat.protocol import ChatReply
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairDataset, PairWriter, read_pairs
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.errors import UserError
from mmpo.eval.answers import AnswerCache, AnswerLog
from mmpo.files import atomic
from mmpo.runs import RunFolder
from mmpo.trainers import checkpoints
from mmpo.trainers.settings import TrainSettings
from mmpo.trainers.train import train
from tests.data_builders import parrot
from tests.trainers.material import settings_for, write_pairs


def flip(path: Path, at: float = 0.5, bit: int = 0) -> None:
    """Turn one bit of a file over, so far into it."""
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


def flip_in(path: Path, what: bytes, by: bytes) -> None:
    data = path.read_bytes()
    assert what in data and len(what) == len(by)
    path.write_bytes(data.replace(what, by, 1))


# --- sealed files -----------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_sealed_file_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    value = {"outcomes": [{"id": "ü\ud800", "p": 0.1 + 0.2, "n": 10**18, "none": None}], "tally": {"in": 3}}
    path = atomic.write_sealed(tmp_path / "a.json", value)
    whole = path.read_bytes()
    assert atomic.read_sealed(path) == value
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                found = atomic.read_sealed(path)
            except UserError as error:
                assert str(path) in error.message and f"delete {path}" in (error.hint or "")
            else:
                assert {name: found[name] for name in value} == value


def test_files_without_a_seal_are_read(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"n": 1})
    assert atomic.read_sealed(tmp_path / "a.json") == {"n": 1}


def test_a_damaged_step_names_its_file(tmp_path: Path) -> None:
    step = RunFolder(tmp_path).step("build")
    step.do({"limit": 3}, lambda: {"images_used": 35})
    flip_in(step.path / "step.json", b'"images_used": 35', b'"images_used": 37')
    with pytest.raises(UserError, match=r"step.json: damaged"):
        _ = step.result


# --- builds -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildSettings, Path]:
    """A build that stopped before its result was written."""
    folder = tmp_path_factory.mktemp("source")
    settings = parrot.small_build(parrot_folder, folder / "world", 6, samples_per_image=0)
    build(settings, folder / "run")
    return settings, folder / "run"


def stopped(built: tuple[BuildSettings, Path], folder: Path) -> Path:
    shutil.copytree(built[1], folder)
    (folder / "build_result.json").unlink()
    return folder


def test_a_damaged_unit_is_named_and_made_anew_once_deleted(built: tuple[BuildSettings, Path], tmp_path: Path) -> None:
    run = stopped(built, tmp_path / "run")
    unit = run / "units" / "00001.json"
    flip_in(unit, b"There", b"Thera")
    with pytest.raises(UserError, match=r"00001.json: damaged") as error:
        build(built[0], run)
    assert f"delete {unit}" in (error.value.hint or "")
    unit.unlink()
    build(built[0], run)
    for path in built[1].rglob("*"):
        assert path.is_dir() or (run / path.relative_to(built[1])).read_bytes() == path.read_bytes(), path.name


def test_damaged_descriptions_are_made_anew(
    built: tuple[BuildSettings, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = stopped(built, tmp_path / "run")
    said = run / "generations" / "00000.descriptions.json"
    whole = said.read_bytes()
    flip_in(said, b"There", b"Thera")
    (run / "units" / "00000.json").unlink()
    build(built[0], run)
    assert said.read_bytes() == whole and "00000.descriptions.json: damaged" in caplog.text
    assert (run / "units" / "00000.json").read_bytes() == (built[1] / "units" / "00000.json").read_bytes()


# --- shards -----------------------------------------------------------------------------------------------------------


def write_shards(folder: Path) -> list[Path]:
    with PairWriter(folder, rows_per_shard=3) as writer:
        for number in range(6):
            picture = random.Random(number).randbytes(2000)
            writer.add(PreferencePair.simple(id=f"p{number}", image=picture, question="?", chosen="a", rejected="b"))
    return sorted((folder / "data").iterdir())


def test_a_flipped_bit_in_a_shard_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    _, second = write_shards(tmp_path)
    whole = second.read_bytes()
    assert len(list(read_pairs(tmp_path))) == 6
    for at in (0.01, 0.3, 0.6, 0.9, 0.97, 0.999):
        second.write_bytes(whole)
        flip(second, at, 3)
        with pytest.raises(UserError) as error:
            list(read_pairs(tmp_path))
        assert str(second) in error.value.message and f"delete {second}" in (error.value.hint or "")
    second.write_bytes(whole)
    flip(second, 0.3)
    with pytest.raises(UserError, match=r"train-00001.parquet"):
        _ = PairDataset(tmp_path)[5]
    with pytest.raises(UserError, match=r"train-00001.parquet"):
        PairWriter(tmp_path, rows_per_shard=3)
    (tmp_path / "card.json").unlink()
    with pytest.raises(UserError, match=r"train-00001.parquet"):
        list(read_pairs(tmp_path))


# --- stored answers ---------------------------------------------------------------------------------------------------

ANSWER = {"key": "k1", "state": "after", "image": "a.png", "prompt": "?", "answer": "Yes, a dog.", "p_yes": 0.75}


@pytest.mark.parametrize("opened", [AnswerLog, lambda path: AnswerCache(path.parent)])
def test_a_damaged_answer_is_named(opened: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "answers-1.jsonl"
    with AnswerLog(path) as log:
        log.add({**ANSWER, "key": "k0"})
        log.add(dict(ANSWER))
    for what, by in ((b"a dog", b"a fog"), (b"0.75", b"0.77"), (b'"k1"', b'"k3"')):
        damaged = tmp_path / what.hex() / path.name
        damaged.parent.mkdir()
        rows = path.read_bytes().splitlines(keepends=True)
        damaged.write_bytes(rows[0] + rows[1].replace(what, by))
        with pytest.raises(UserError, match=r"answers-1.jsonl:2: damaged") as error:
            opened(damaged)
        assert "delete this line" in (error.value.hint or "")
    with opened(path) as log:
        assert log["k1"] == ANSWER


def test_a_damaged_reply_costs_that_reply(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    cache = ReplyCache(path)
    for number in range(3):
        cache.put(f"k{number}", "judge", ChatReply(f"grade {number}", False, "m", False))
    cache.close()
    flip_in(path, b"grade 1", b"grade 9")
    again = ReplyCache(path)
    assert (len(again), again.damaged, again.get("k1")) == (2, 1, None)
    assert again.get("k2") == ChatReply("grade 2", False, "m", True)
    again.close()


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainSettings, Path]:
    settings: TrainSettings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path_factory.mktemp("pairs"), 8), max_steps=6, batch_size=2, save_steps=2
    )
    folder = tmp_path_factory.mktemp("trained")
    train(settings, folder)
    return settings, folder


def unfinished(trained: tuple[TrainSettings, Path], folder: Path) -> Path:
    shutil.copytree(trained[1], folder)
    shutil.rmtree(folder / "adapter")
    (folder / "train_result.json").unlink()
    return folder / "checkpoints"


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_damaged_checkpoint_gives_way_to_an_older_one(
    name: str, trained: tuple[TrainSettings, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = unfinished(trained, tmp_path / "run")
    assert [folder.name for folder in checkpoints.all_checkpoints(root)] == ["checkpoint-4", "checkpoint-6"]
    flip(root / "checkpoint-6" / name, 0.6)
    assert checkpoints.newest(root) == root / "checkpoint-4"
    assert train(trained[0], tmp_path / "run").resumed_from == 4
    assert f"checkpoint-6/{name}: damaged" in caplog.text
    for file in ("adapter/adapter_model.safetensors", "checkpoints/checkpoint-6/adapter_model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (trained[1] / file).read_bytes()


def test_damaged_facts_of_a_checkpoint_are_noticed(trained: tuple[TrainSettings, Path], tmp_path: Path) -> None:
    root = unfinished(trained, tmp_path / "run")
    marker = root / "checkpoint-6" / checkpoints.MARKER
    digest = json.loads(marker.read_text())["data"].encode()
    flip_in(marker, digest, digest[:-1] + (b"0" if digest[-1:] != b"0" else b"1"))
    assert checkpoints.newest(root) == root / "checkpoint-4"


def test_without_a_sound_checkpoint_nothing_is_thrown_away_unasked(
    trained: tuple[TrainSettings, Path], tmp_path: Path
) -> None:
    root = unfinished(trained, tmp_path / "run")
    for folder in checkpoints.all_checkpoints(root):
        flip(folder / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer.pt: damaged") as error:
        train(trained[0], tmp_path / "run")
    assert "delete" in (error.value.hint or "") and len(checkpoints.all_checkpoints(root)) == 2
