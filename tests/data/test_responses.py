"""Groups of scored responses: every field kept, odd input named, folders of pairs and of groups told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mmpo.data.card import read_card
from mmpo.data.pair import text_message
from mmpo.data.reader import RESPONSES, holds_groups
from mmpo.data.responses import ResponseGroup, ScoredResponse, group_of_pair, groups_of_pairs, validate_group
from mmpo.data.shards import PairWriter, ResponseWriter, check_pairs, read_groups, read_pairs
from mmpo.errors import Quarantined, UserError
from tests.data.making import make_pair, picture

ANSWERS = [ScoredResponse("A dog.", 2.5), ScoredResponse("A cat.", -1.0), ScoredResponse("çats — two.")]


def make_group(number: int, **changes: Any) -> ResponseGroup:
    group = ResponseGroup(
        f"group-{number}",
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}],
        ANSWERS,
        [picture(number)],
        provenance={"builder": "test", "nested": {"n": number}},
    )
    return replace(group, **changes)


def test_every_field_comes_back(tmp_path: Path) -> None:
    full = make_group(
        1,
        prompt=[
            text_message("system", "Be brief."),
            {"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "video"}]},
        ],
        images=["images/a.png"],
        videos=[{"frames": [b"1", "frames/2.png"], "times": [0.0, 1.5]}, {"path": "clip.mp4"}],
    )
    bare = ResponseGroup("bare", [text_message("user", "Hi?")], [ScoredResponse("Yes.")])
    with ResponseWriter(tmp_path, recipe={"a": 1}) as writer:
        writer.add(full, bare)
        writer.reject("gone", Quarantined("decode", "missing", "x.png"))
    assert list(read_groups(tmp_path)) == [full, bare]
    card = read_card(tmp_path, RESPONSES)
    assert (card["title"], card["splits"]["train"]["pairs"]) == ("Groups of scored responses", 2)
    assert "| split | sources | kept | groups | rejected |" in (tmp_path / "README.md").read_text()


def test_a_writer_goes_on_behind_its_last_shard(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ResponseWriter(tmp_path / "a", rows_per_shard=2) as writer:
        for number in range(3):
            writer.add(make_group(number))
        1 / 0  # noqa: B018
    for name in ("a", "b"):
        with ResponseWriter(tmp_path / name, rows_per_shard=2) as writer:
            for number in range(writer.sources_done, 5):
                writer.add(make_group(number))
    shards = [sorted((tmp_path / name / "data").iterdir()) for name in ("a", "b")]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]
    assert len(list(read_groups(tmp_path / "a"))) == 5


def test_folders_of_pairs_and_of_groups_are_told_apart(tmp_path: Path) -> None:
    with PairWriter(tmp_path / "pairs") as pairs, ResponseWriter(tmp_path / "groups") as groups:
        pairs.add(make_pair(1))
        groups.add(make_group(1))
    assert [holds_groups(tmp_path / name) for name in ("pairs", "groups", "gone")] == [False, True, False]
    of_pairs: tuple[Any, ...] = (check_pairs, lambda folder: next(read_pairs(folder)), PairWriter)
    for read in of_pairs:
        with pytest.raises(UserError, match="holds groups of responses, not pairs"):
            read(tmp_path / "groups")
    of_groups: tuple[Any, ...] = (lambda folder: next(read_groups(folder)), ResponseWriter)
    for read in of_groups:
        with pytest.raises(UserError, match="holds pairs, not groups of responses"):
            read(tmp_path / "pairs")
    with pytest.raises(UserError, match="no groups of responses of the split 'train'"):
        next(read_groups(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": ""}, "`id` must be a non-empty string"),
        ({"prompt": [text_message("assistant", "Hi.")], "images": []}, "must end with a user message"),
        ({"prompt": []}, "`prompt` must be a non-empty list"),
        ({"images": []}, "has 1 image parts, `images` has 0"),
        ({"images": ["../x.png"]}, "leaves the dataset"),
        ({"responses": []}, "`responses` is empty"),
        ({"responses": [ScoredResponse(" \n", 1.0)]}, r"`responses\[0\]`: `text` must be a text with words"),
        ({"responses": [ScoredResponse(None, 1.0)]}, "must be a text with words, got None"),  # type: ignore[arg-type]
        ({"responses": [ScoredResponse("a <image> b", 1.0)]}, "the text contains '<image>'"),
        ({"responses": [ScoredResponse("half \ud83d", 1.0)]}, "half a character"),
        ({"responses": [ANSWERS[0], ScoredResponse("b", float("nan"))]}, r"`responses\[1\]`: the score is nan"),
        ({"responses": [ScoredResponse("b", True)]}, "the score is True, not a finite number"),
        ({"responses": [ScoredResponse("b", "high")]}, "the score is 'high'"),  # type: ignore[arg-type]
        ({"responses": [ScoredResponse("b", 1.0), ScoredResponse("b", 2.0)]}, "all 2 responses are the same"),
    ],
)
def test_bad_groups_are_named_when_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        validate_group(make_group(0, **changes))
    writer = ResponseWriter(tmp_path)
    with pytest.raises(UserError, match=words):
        writer.add(make_group(0, **changes))
    assert writer.counts.pairs == 0


def test_bad_rows_of_others_are_named_with_file_and_row(tmp_path: Path) -> None:
    with ResponseWriter(tmp_path) as writer:
        writer.add(make_group(0), make_group(1))
    (tmp_path / "card.json").unlink()
    shard = tmp_path / "data" / "train-00000.parquet"
    table = pq.read_table(shard)
    cells = table["responses"].to_pylist()
    cells[1][0]["text"] = ""
    column = table.schema.get_field_index("responses")
    pq.write_table(table.set_column(column, table.schema.field(column), [cells]), shard)
    groups = read_groups(tmp_path)
    assert next(groups) == make_group(0)
    with pytest.raises(UserError, match=r"train-00000.parquet:1 \(id group-1\): `responses\[0\]`"):
        next(groups)


def test_pairs_become_groups_of_two() -> None:
    pair = make_pair(3)
    group = group_of_pair(pair)
    assert [(one.text, one.score) for one in group.responses] == [
        ("There are 3 dogs.", 1.0),
        ("There are 3 cats — çats.", 0.0),
    ]
    assert (group.id, group.images, group.prompt) == (pair.id, pair.images, pair.prompt)
    named = group_of_pair(make_pair(3, scores={"up": 2.0}), ("up", "down"))
    assert [one.score for one in named.responses] == [2.0, None] and named.unscored == 1


def test_pairs_that_are_no_groups_say_why() -> None:
    talk = [text_message("assistant", "A."), text_message("user", "B?"), text_message("assistant", "C.")]
    pairs = [make_pair(1, rejected_images=[picture(9)]), make_pair(2, chosen=talk), make_pair(3, unfinished=True)]
    found = list(groups_of_pairs([*pairs, make_pair(4)]))
    reasons = [one[1].reason for one in found if not isinstance(one, ResponseGroup)]
    assert reasons == ["other_images", "several_turns", "unfinished"] and isinstance(found[-1], ResponseGroup)
