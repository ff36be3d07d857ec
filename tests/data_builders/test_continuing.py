"""Every builder goes on with another address, other concurrency and `allow_network`, and with no other result; what
failed before any work may be corrected in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.files.atomic import read_sealed, write_sealed
from mmpo.pipeline import check_section, run_section
from mmpo.recipes import Recipe
from mmpo.runs import RunFolder
from tests.chat.server import ChatServer
from tests.data_builders import careful
from tests.data_builders.hallucination.test_build import settings as hallucination_settings
from tests.data_builders.mia import test_mia as multi_image
from tests.data_builders.radiology.test_radiology import answer as edits
from tests.data_builders.radiology.test_radiology import settings as radiology_settings
from tests.data_builders.video.test_video import OBJECTS, script, settings_for
from tests.tiny_videos import openable
from tests.video import clips

__all__ = ["openable"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return multi_image.write_records(tmp_path_factory.mktemp("mia"))


Section = Callable[[dict[str, Any]], dict[str, Any]]
"""From a text model's settings to a `build` section."""


def plain(made: Any) -> dict[str, Any]:
    data: dict[str, Any] = made.model_dump(mode="json", exclude_unset=True)
    return data


def recipe_of(section: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"name": "x", "build": section})


def interrupt(run: RunFolder) -> None:
    """Leave a finished build as a kill in its last unit leaves it."""
    folder = run.path / "build"
    (folder / "build_result.json").unlink()
    sorted((folder / "units").glob("*.json"))[-1].unlink()
    record = read_sealed(folder / "step.json")
    write_sealed(folder / "step.json", {**record, "state": "started"})


def goes_on(section: Section, reply: Callable[[str], str], changed: dict[str, Any], key: str, folder: Path) -> None:
    run = RunFolder(folder / "run")
    run.open("")
    with ExitStack() as stack:
        first, second = (stack.enter_context(ChatServer(reply)) for _ in range(2))
        before = section(first.settings().model_dump())
        result = run_section(run, recipe_of(before), "build")
        after = section(second.settings(concurrency=2, timeout=9.0, cache_name="mine").model_dump())
        after["allow_network"] = True
        assert after != before
        assert run_section(run, recipe_of(after), "build") == result
        interrupt(run)
        again = run_section(run, recipe_of(after), "build")
        names = {"judge", "editor"}  # say honestly that two addresses were asked
        assert {k: v for k, v in again.items() if k not in names} == {k: v for k, v in result.items() if k not in names}
        other = recipe_of({**after, **changed})
        with pytest.raises(UserError, match=key):
            check_section(run, other, "build")


def test_hallucination(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    def section(chat: dict[str, Any]) -> dict[str, Any]:
        values = {"judge": chat, "writer": chat, "qa": {"writer": chat}, "samples_per_image": 0, "limit": 7}
        return plain(hallucination_settings(parrot_folder, world, **values))

    goes_on(section, careful.scripted, {"seed": 4}, r"build\.seed: 0 -> 4", tmp_path)


def test_video(parrot_folder: Path, tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        clips.write(tmp_path / f"v{number}.mp4", n=12)
        qa = [{"question": "Is there a dog in the image?", "answer": "Yes, there is a dog."}]
        caption = "A grey scene in which a small red box moves slowly from left to right below twelve columns."
        rows.append({"video": f"v{number}.mp4", "caption": caption, "qa": qa, "objects": OBJECTS[:1]})
    listed = tmp_path / "videos.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def section(chat: dict[str, Any]) -> dict[str, Any]:
        values = {"judge": {"by": "model", "model": chat}, "shard_size": 1, "samples": 3, "min_caption_words": 5}
        return plain(settings_for(listed, parrot_folder, **values))

    goes_on(section, script, {"threshold": 4}, r"build\.threshold", tmp_path)


def test_radiology(tmp_path: Path) -> None:
    def section(chat: dict[str, Any]) -> dict[str, Any]:
        return plain(radiology_settings(tmp_path, editor={"by": "model", "model": chat}, limit=1))

    goes_on(section, edits, {"min_words": 4}, r"build\.min_words: 3 -> 4", tmp_path)


def test_mia(tiny_llava_folder: Path, records: Path, tmp_path: Path) -> None:
    section = plain(multi_image.settings(tiny_llava_folder, records, limit=6))
    goes_on(lambda chat: dict(section), str, {"seed": 3}, r"build\.seed: 0 -> 3", tmp_path)


def test_another_text_model_is_another_build(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open("")
    with ChatServer(careful.scripted) as server:
        for name in ("scripted-1", "scripted-2"):
            chat = server.settings(model=name, accept_models=["scripted-1"]).model_dump()
            values = {"judge": chat, "qa": None, "samples_per_image": 0, "limit": 2}
            build = recipe_of(plain(hallucination_settings(parrot_folder, world, **values)))
            if name == "scripted-1":
                run_section(run, build, "build")
            else:
                with pytest.raises(UserError, match=r"build\.judge\.model: 'scripted-1' -> 'scripted-2'"):
                    run_section(run, build, "build")


def test_a_build_that_failed_before_any_work_is_corrected_in_its_folder(
    parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    run.open("")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    values = {"qa": None, "samples_per_image": 0, "limit": 2, "vocabulary": str(tmp_path / "none.txt")}
    with pytest.raises(UserError, match=r"none\.txt"):
        run_section(run, recipe_of(plain(hallucination_settings(parrot_folder, world, **values))), "build")
    del values["vocabulary"]
    with pytest.raises(UserError):  # fails later: the source is written already
        run_section(run, recipe_of(plain(hallucination_settings(empty, world, **values))), "build")
    good = recipe_of(plain(hallucination_settings(parrot_folder, world, **values)))
    assert run_section(run, good, "build")["images"] == 2
    with pytest.raises(UserError, match=r"build\.seed"):
        check_section(run, recipe_of(plain(hallucination_settings(parrot_folder, world, **values, seed=1))), "build")
