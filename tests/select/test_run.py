"""Selections from folder to folder: what is written, from where the numbers come, what stops them, and killed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mmpo.data.card import read_card
from mmpo.data.pair import PreferencePair
from mmpo.data.reader import read_pairs
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.files.images import encode_image
from mmpo.select import run as running
from mmpo.select import scoring
from mmpo.select.logps import with_logps, write_logps
from mmpo.select.run import select
from mmpo.select.scan import scan
from mmpo.select.settings import CommonSelectSettings, SelectResult, select_settings
from mmpo.trainers.order import is_ordered
from tests.tiny import tiny_image

N = 24


def make(number: int) -> PreferencePair:
    """Chosen has `number % 5` words more than rejected; chosen's score is the number; two pairs a prompt."""
    return PreferencePair.simple(
        id=f"p{number}",
        image=encode_image(tiny_image(number // 2)),
        question="What is in the image?",
        chosen="a dog" + " there" * (number % 5),
        rejected=f"{number} dogs",
        scores={"chosen": float(number), "rejected": 0.0},
        provenance={"builder": "test", "filters": ["before"]},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with PairWriter(tmp_path / "pairs", recipe={"test": 1}, rows_per_shard=7) as writer:
        for number in range(N):
            writer.add(make(number))
    return tmp_path / "pairs"


def settings(pairs: Path, by: Any, **more: Any) -> CommonSelectSettings:
    found: CommonSelectSettings = select_settings().model_validate({"pairs": str(pairs), "by": by, **more})
    return found


def done(pairs: Path, out: Path, by: Any, **more: Any) -> SelectResult:
    result = select(settings(pairs, by, **more), out)
    table = result.counts["pairs"]
    assert table["in"] == sum(table.values()) - table["in"] == result.pairs_in
    card = read_card(out / "pairs")["splits"]["train"]
    assert (card["sources"], card["kept"]) == (table["in"], table["kept"]) == (table["in"], result.pairs_kept)
    rejects = [json.loads(line) for line in (out / "pairs" / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) + table["kept"] == table["in"]
    return result


def ids(folder: Path) -> list[str]:
    return [pair.id for pair in read_pairs(folder)]


SCORED = [{"dual_margin": {"implicit": False, "fusion": "sum", "keep": 0.25}}]


def test_what_is_kept_is_as_it_was(folder: Path, tmp_path: Path) -> None:
    result = done(folder, tmp_path / "out", SCORED)
    assert ids(tmp_path / "out/pairs") == [f"p{number}" for number in range(18, 24)]
    for pair in read_pairs(tmp_path / "out/pairs"):
        before = make(int(pair.id[1:]))
        assert pair == replace(
            before, provenance={**pair.provenance, "builder": "test", "filters": ["before", "select/dual_margin"]}
        )
    assert result.counts == {"pairs": {"in": 24, "kept": 6, "dual_margin: below": 18}}
    assert result.before.margins == {"chosen - rejected": 11.5}
    assert result.after.margins == {"chosen - rejected": 20.5}
    rejects = [json.loads(line) for line in (tmp_path / "out/pairs/rejects.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rejects] == [f"p{number}" for number in range(18)]
    assert {(row["stage"], row["reason"]) for row in rejects} == {("dual_margin", "below")}
    readme = (tmp_path / "out/pairs/README.md").read_text()
    assert "| after dual_margin | 6 |" in readme and "| pairs | dual_margin: below | 18 |" in readme
    assert (tmp_path / "out/pairs/images.sha256").read_text().count("\n") == 3
    assert not is_ordered(tmp_path / "out/pairs")


def test_a_finished_selection_returns_its_result(folder: Path, tmp_path: Path) -> None:
    first = done(folder, tmp_path / "out", SCORED)
    shutil.rmtree(tmp_path / "out/pairs/data")
    assert select(settings(folder, SCORED), tmp_path / "out") == first
    with pytest.raises(UserError, match="another `by`"):
        select(settings(folder, [{"dual_margin": {"implicit": False, "keep": 0.5}}]), tmp_path / "out")


def test_a_curriculum_stands_in_its_order(folder: Path, tmp_path: Path) -> None:
    result = done(folder, tmp_path / "out", [{"curry": {"stages": 2}}])
    pairs = list(read_pairs(tmp_path / "out/pairs"))
    stages = [pair.scores["stage"] for pair in pairs if pair.scores]
    assert stages == [0.0] * 12 + [1.0] * 12
    assert {int(pair.id[1:]) % 2 for pair in pairs[:12]} == {1}  # the higher score of the two of an image
    assert result.ordered and result.stages == {0: 12, 1: 12}
    assert is_ordered(tmp_path / "out/pairs")


def test_weights_become_columns(folder: Path, tmp_path: Path) -> None:
    done(folder, tmp_path / "out", [{"madpo": {"keep": 5}}])
    kept = list(read_pairs(tmp_path / "out/pairs"))
    assert [set(pair.scores or {}) for pair in kept] == [{"chosen", "rejected", "madpo_weight"}] * 5


def test_nothing_is_kept_and_told(folder: Path, tmp_path: Path) -> None:
    result = done(folder, tmp_path / "out", [{"length_balance": {"ratio": [5, 9]}}])
    assert result.pairs_kept == 0 and result.after.length_difference is None
    assert ids(tmp_path / "out/pairs") == []


def test_a_picture_that_is_gone_is_a_reject(folder: Path, tmp_path: Path) -> None:
    there = [replace(make(0), images=["there.png"]), replace(make(1), images=["gone.png"])]
    with PairWriter(tmp_path / "paths", recipe={}) as writer:
        (tmp_path / "paths/there.png").write_bytes(encode_image(tiny_image(1)))
        for pair in there:
            writer.add(pair)
    result = done(tmp_path / "paths", tmp_path / "out", [{"length_balance": {"within": 0.9}}])
    assert result.counts["pairs"] == {"in": 2, "kept": 1, "decode: missing": 1}
    (kept,) = read_pairs(tmp_path / "out/pairs")
    assert isinstance(kept.images[0], bytes)


def test_videos_come_along(tmp_path: Path) -> None:
    pair = make(0)
    prompt = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}]
    with PairWriter(tmp_path / "clips", recipe={}) as writer:
        (tmp_path / "clips/v").mkdir(parents=True)
        (tmp_path / "clips/v/a.mp4").write_bytes(b"film")
        writer.add(replace(pair, images=[], prompt=prompt, videos=[{"path": "v/a.mp4"}]))
        writer.add(replace(make(1), images=[], prompt=prompt, videos=[{"path": "v/b.mp4"}]))
    result = done(tmp_path / "clips", tmp_path / "out", [{"length_balance": {"within": 0.9}}])
    assert result.counts["pairs"] == {"in": 2, "kept": 1, "decode: missing": 1}
    assert (tmp_path / "out/pairs/v/a.mp4").read_bytes() == b"film"


def test_pairs_without_ids_are_called_by_their_rows(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain/data").mkdir(parents=True)
    table = pq.read_table(folder / "data/train-00000.parquet").drop_columns(["id"])
    pq.write_table(table, tmp_path / "plain/data/train-00000.parquet")
    done(tmp_path / "plain", tmp_path / "out", [{"dual_margin": {"implicit": False, "fusion": "sum", "keep": 2}}])
    assert ids(tmp_path / "out/pairs") == ["train-00000.parquet:5", "train-00000.parquet:6"]
    (first, *_) = (tmp_path / "out/pairs/rejects.jsonl").read_text().splitlines()
    assert json.loads(first)["id"] == "train-00000.parquet:0"


# ---- mistakes


@pytest.mark.parametrize(
    ("by", "told"),
    [
        ([{"consensus": {"judges": [{}, {"margin": "votes"}]}}], "no pair has a score 'votes'"),
        (["reference_gap"], "nothing gives them"),
        (["dual_margin"], "nothing gives them"),
    ],
)
def test_what_the_pairs_lack_is_told(folder: Path, tmp_path: Path, by: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        select(settings(folder, by), tmp_path / "out")
    assert not (tmp_path / "out/pairs").exists()


def test_a_margin_against_a_reference_needs_an_adapter(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no adapter"):
        select(settings(folder, ["dual_margin"], model="anything"), tmp_path / "out")


def test_rewards_stand_in_for_scores_of_the_usual_name(tmp_path: Path) -> None:
    with PairWriter(tmp_path / "pairs", recipe={}) as writer:
        for number in range(4):
            writer.add(replace(make(number), scores={"chosen_reward": 4.0 - number, "rejected_reward": 0.0}))
    done(tmp_path / "pairs", tmp_path / "out", SCORED)
    assert ids(tmp_path / "out/pairs") == ["p0"]


def test_no_pairs_are_told(tmp_path: Path) -> None:
    with PairWriter(tmp_path / "pairs", recipe={}):
        pass
    with pytest.raises(UserError, match="no pairs in it"):
        select(settings(tmp_path / "pairs", ["length_balance"]), tmp_path / "out")


# ---- log-probs from files


def log_probs(names: list[str], **columns: list[float | None]) -> dict[str, list[Any]]:
    return {"id": names, **columns}


def test_log_probs_are_found_by_id(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "logps.parquet"
    shuffled = [*range(N - 1, 0, -1)]  # p0 is not there
    lengths: list[float | None] = [1.0] * len(shuffled)
    write_logps(file, log_probs(
        [f"p{number}" for number in shuffled], ref_chosen=[float(-number) for number in shuffled],
        ref_rejected=[0.0] * len(shuffled), chosen_lengths=lengths, rejected_lengths=lengths,
    ))  # fmt: skip
    result = done(folder, tmp_path / "out", [{"reference_gap": {"keep": 3}}], logps=str(file))
    assert ids(tmp_path / "out/pairs") == ["p21", "p22", "p23"]
    assert result.counts["pairs"] == {
        "in": 24, "kept": 3, "reference_gap: not_in_logps": 1, "reference_gap: below": 20
    }  # fmt: skip
    assert result.scored == "logps"


def test_log_probs_that_are_no_table_are_told(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "logps.parquet"
    four: dict[str, list[float | None]] = {
        name: [0.0, 0.0] for name in ("ref_chosen", "ref_rejected", "chosen_lengths", "rejected_lengths")
    }
    by = [{"reference_gap": {}}]

    def told(text: str, number: int) -> None:
        with pytest.raises(UserError, match=text):
            select(settings(folder, by, logps=str(file)), tmp_path / f"out-{number}")

    write_logps(file, log_probs(["p1", "p1"], **four))
    told("an id stands in it twice", 1)
    write_logps(file, log_probs(["p1", "p2"], ref_chosen=[0.0, 0.0]))
    told("no column 'ref_rejected'", 2)
    write_logps(file, {"name": [1.0]})
    told("no column `id`", 3)
    file.write_bytes(b"no parquet")
    told("not a whole Parquet file", 4)
    file.unlink()
    file.mkdir()
    told("no Parquet files", 5)


def test_log_probs_in_the_scores_do(tmp_path: Path) -> None:
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    with PairWriter(tmp_path / "pairs", recipe={}) as writer:
        for number in range(4):
            writer.add(replace(make(number), scores=dict.fromkeys(names, 0.0) | {"policy_chosen": float(number)}))
    result = done(tmp_path / "pairs", tmp_path / "out", [{"dual_margin": {"external": [], "keep": 0.5}}])
    assert result.scored == "scores" and ids(tmp_path / "out/pairs") == ["p2", "p3"]


# ---- killed anywhere


class Killed(BaseException):
    """Stands in for SIGKILL: nothing that is written behind it is written."""


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".mmpo-lock"
    }


@pytest.mark.parametrize("by", [SCORED, [{"curry": {"stages": 2}}, {"length_balance": {"ratio": [0.5, 1.6]}}]])
def test_killed_while_writing_it_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Any
) -> None:
    monkeypatch.setattr(running, "open_writer", _small(running.open_writer))
    done(folder, tmp_path / "whole", by)
    expected = tree(tmp_path / "whole")
    for kill_at in (0, 3, 7, 12, 23):
        out = tmp_path / f"killed-{kill_at}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            count = iter(range(10**6))
            for name in ("add", "reject"):
                patch.setattr(PairWriter, name, _killing(getattr(PairWriter, name), count, kill_at))
            select(settings(folder, by), out)
        done(folder, out, by)
        assert tree(out) == expected


def _small(opened: Any) -> Any:
    def small(*args: Any) -> PairWriter:
        writer: PairWriter = opened(*args)
        writer.rows_per_shard = 2
        return writer

    return small


def _killing(method: Any, count: Iterator[int], at: int) -> Any:
    def killing(self: PairWriter, *args: Any) -> None:
        if next(count) == at:
            raise Killed
        method(self, *args)

    return killing


# ---- with a model


def test_a_model_scores_the_pairs_once(
    folder: Path, tmp_path: Path, tiny_llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "UNIT", 10)
    by = [{"reference_gap": {"keep": 0.5}}, {"wpo": {"keep": 8}}]
    result = done(folder, tmp_path / "out", by, model=str(tiny_llava_folder))
    assert (result.pairs_kept, result.scored) == (8, "model")
    files = sorted((tmp_path / "out/logps").glob("*.parquet"))
    assert [pq.read_table(file).num_rows for file in files] == [10, 10, 4]
    import mmpo

    scores = mmpo.load(tiny_llava_folder).score(folder)
    columns = ("policy_chosen", "policy_rejected", "chosen_lengths", "rejected_lengths")
    table = with_logps(scan(folder, ()), folder, tmp_path / "out/logps", columns)
    for name in columns:
        assert table[name].tolist() == pytest.approx(getattr(scores, name).tolist(), abs=1e-3)
    # What was scored serves another selection, and gives the same; so does a table of Model.score.
    again = done(folder, tmp_path / "again", by, logps=str(tmp_path / "out/logps"))
    assert again.steps == result.steps
    frame = scores.to_pandas()
    frame.to_parquet(tmp_path / "frame.parquet")
    with pytest.raises(UserError, match="'ref_chosen' is empty"):
        select(settings(folder, by[:1], logps=str(tmp_path / "frame.parquet")), tmp_path / "third")
    frame["ref_chosen"], frame["ref_rejected"] = frame["policy_chosen"], frame["policy_rejected"]
    frame.to_parquet(tmp_path / "frame.parquet")
    done(folder, tmp_path / "third", by[:1], logps=str(tmp_path / "frame.parquet"))
    assert set(ids(tmp_path / "out/pairs")) <= set(ids(tmp_path / "third/pairs"))


def test_killed_while_scoring_it_goes_on(
    folder: Path, tmp_path: Path, tiny_llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "UNIT", 10)
    by = ["reference_gap"]
    done(folder, tmp_path / "whole", by, model=str(tiny_llava_folder))
    written = scoring.write_logps
    for kill_at in (0, 2):
        out = tmp_path / f"killed-{kill_at}"

        def dying(path: Path, columns: Any, at: int = kill_at) -> None:
            if path.stem == f"{at:05d}":
                raise Killed
            written(path, columns)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(scoring, "write_logps", dying)
            select(settings(folder, by, model=str(tiny_llava_folder)), out)
        if kill_at == 2:  # and what was written first is damaged meanwhile
            damaged = (out / "logps/00000.parquet").read_bytes()
            (out / "logps/00000.parquet").write_bytes(damaged[:300] + b"\0\0\0\0" + damaged[304:])
        done(folder, out, by, model=str(tiny_llava_folder))
        assert tree(out) == tree(tmp_path / "whole")


def test_pairs_that_a_model_cannot_score_say_why(tmp_path: Path, tiny_llava_folder: Path) -> None:
    with PairWriter(tmp_path / "pairs", recipe={}) as writer:
        writer.add(make(0))
        writer.add(replace(make(1), images=[b"no picture"]))
        writer.add(replace(make(2), chosen=[{"role": "assistant", "content": [{"type": "text", "text": "a " * 5000}]}]))
    result = done(tmp_path / "pairs", tmp_path / "out", ["reference_gap"], model=str(tiny_llava_folder))
    assert result.pairs_kept == 1
    assert result.steps[0].dropped == {"not_an_image": 1, "too_long": 1}


def test_another_source_is_refused(folder: Path, tmp_path: Path) -> None:
    by = ["length_balance"]
    done(folder, tmp_path / "out", by)
    shutil.copytree(folder, tmp_path / "kept")
    shutil.rmtree(folder)
    with PairWriter(folder, recipe={"test": 1}) as writer:
        writer.add(make(0))
    with pytest.raises(UserError, match="another `content of the pairs`"):
        select(settings(folder, by), tmp_path / "out")
