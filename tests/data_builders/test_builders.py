"""A builder of one's own: registered by name, and run with units, resuming and counts by `mmpo.data_builders.run`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from PIL import Image
from pydantic import BaseModel

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import read_pairs
from mmpo.data.shards import PairWriter
from mmpo.data_builders import builders
from mmpo.data_builders.run import Builder, Written, run
from mmpo.data_builders.units import Advance, Units, Work
from mmpo.errors import Quarantined, UserError
from mmpo.settings import Settings
from tests.tiny import contents


class NumberSettings(Settings):
    FREE: ClassVar[frozenset[str]] = frozenset({"pace"})

    builder: Literal["numbers"] = "numbers"
    upto: int = 7
    shard_size: int = 2
    pace: int = 1


class NumberResult(BaseModel):
    pairs: str = "pairs"
    counts: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Number:
    id: str
    value: int


class Numbers(Builder[NumberSettings, Number, NumberResult]):
    result = NumberResult
    label = "counting"
    title = "Numbers"
    dies_at: ClassVar[int | None] = None
    closed: ClassVar[list[str]] = []

    def plan(self) -> Sequence[Number]:
        return [Number(f"n{value}", value) for value in range(self.settings.upto)]

    def open(self, stack: ExitStack) -> Work[Number]:
        stack.callback(self.closed.append, "closed")

        def work(number: int, part: Sequence[Number], advance: Advance) -> dict[str, Any]:
            if any(one.value == self.dies_at for one in part):
                raise KeyboardInterrupt
            advance(len(part))
            odd = [one.value for one in part if one.value % 2]
            outcomes = [{"pairs": [one.value] if one.value % 2 else []} for one in part]
            return {"tally": {"digits": {"in": len(part), "odd": len(odd)}}, "outcomes": outcomes}

        return work

    def pairs(self, source: Number, outcome: Mapping[str, Any], units: Units[Number]) -> list[PreferencePair]:
        if not outcome["pairs"]:
            raise Quarantined("filter", "even")
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        image = picture.getvalue()
        return [PreferencePair.simple(id=source.id, image=image, question="Odd?", chosen="Yes.", rejected="No.")]

    def summary(self, units: Units[Number], written: Written) -> NumberResult:
        return NumberResult(counts={"numbers": written.table, "digits": {"in": units.tally["digits"]["odd"], "odd": 3}})


@pytest.fixture
def registered() -> Iterator[None]:
    builders.register("numbers", NumberSettings)(Numbers)
    yield
    builders.BUILDERS.forget([__name__])


@pytest.mark.usefixtures("registered")
def test_it_runs_resumes_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = builders.build(NumberSettings(), tmp_path / "whole")
    assert result.model_dump()["counts"]["numbers"] == {"in": 7, "paired": 3, "filter: even": 4}
    assert [pair.id for pair in read_pairs(tmp_path / "whole" / "pairs")] == ["n1", "n3", "n5"]
    monkeypatch.setattr(Numbers, "dies_at", 4)
    with pytest.raises(KeyboardInterrupt):
        builders.build(NumberSettings(), tmp_path / "broken")
    assert len(list((tmp_path / "broken" / "units").glob("[0-9]*.json"))) == 2 and Numbers.closed[-2:] == [
        "closed",
        "closed",
    ]
    monkeypatch.setattr(Numbers, "dies_at", None)
    assert builders.build(NumberSettings(pace=2), tmp_path / "broken") == result, "what is free may be another"
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    with pytest.raises(UserError, match="another `upto`"):
        builders.build(NumberSettings(upto=8), tmp_path / "broken")


def test_counts_that_do_not_add_up_end_the_build(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the counts of digits do not add up"):
        run(NumberSettings(upto=4), tmp_path, Numbers)
    assert not (tmp_path / "build_result.json").exists() and not (tmp_path / "pairs" / "card.json").exists()


@pytest.mark.usefixtures("registered")
def test_names_are_taken_once_and_stand_in_the_settings() -> None:
    with pytest.raises(UserError, match=f"two builders are called 'numbers': one of {__name__}, one of {__name__}"):
        builders.register("numbers", NumberSettings)(Numbers)
    with pytest.raises(UserError, match="has no `builder: Literal"):
        builders.register("others", NumberSettings)


def test_a_function_that_writes_pairs_is_a_builder_too(tmp_path: Path) -> None:
    """It returns nothing: the card of its pairs tells what it made."""

    class OneSettings(Settings):
        builder: Literal["one"] = "one"

    def build(settings: OneSettings, folder: Path) -> None:
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        with PairWriter(folder / "pairs") as writer:
            writer.add(
                PreferencePair.simple(id="a", image=picture.getvalue(), question="A?", chosen="A.", rejected="B.")
            )
            writer.reject("b", Quarantined("filter", "dull"))

    builders.register("one", OneSettings)(build)
    try:
        result = builders.build(OneSettings(), tmp_path)
    finally:
        builders.BUILDERS.forget([__name__])
    assert result.model_dump() == {
        "builder": "one", "pairs": "pairs", "images": 2, "images_used": 1, "pairs_made": 1,
        "counts": {"sources": {"in": 2, "paired": 1, "filter/dull": 1}},
    }  # fmt: skip


def test_every_folder_with_an_entry_is_a_builder() -> None:
    assert set(builders.BUILDERS) == {
        "candidates", "hallucination_pairs", "mia", "pairs_from_candidates", "radiology", "video_rewards",
    }  # fmt: skip
    for name, entry in builders.BUILDERS.items():
        assert entry.settings.model_fields["builder"].annotation == Literal[name]
