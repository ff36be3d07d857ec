"""The whole `mmpo build` with judge, writer and question maker behind a server process that has a bad day: every fault
there is, some for good, and the build killed on the way. Every image ends as pairs or in quarantine with its reason,
none twice, and what was said is asked once.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmpo.cli.app import load_commands
from mmpo.data.shards import read_pairs
from tests.chat.server import FAULTS, Record, ServerProcess, quick_settings
from tests.data_builders import parrot
from tests.data_builders.careful import CUT_OFF, LASTING, MUDDLED, NAMES, bad_day, muddled

SCENES = [list(names) for size in (1, 2, 3) for names in combinations(NAMES, size)]
REASONS = {
    "429": "rate_limited", "500": "server_error", "hang": "timeout", "truncated_json": "bad_reply",
    "cut_body": "unreachable", "nonsense": "bad_reply", "disconnect": "unreachable",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every set of one to three of five objects, once; two pictures can't be used."""
    return parrot.write_world(tmp_path_factory.mktemp("world"), 2 + len(SCENES), [SCENES[0], SCENES[1], *SCENES])


def write_recipe(folder: Path, url: str, model: Path, world: Path) -> Path:
    """Time-outs come at every hang, so that they are short; the tries are many, for a machine that is busy."""
    chat = quick_settings(url, retries=4, timeout=1.5).model_dump()
    build = {
        "annotations": str(world), "prompts": [parrot.DESCRIBE], "max_new_tokens": 64, "samples_per_image": 0,
        "judge": chat, "writer": chat, "variants": 3, "omission_share": 0.0, "qa": {"writer": chat},
    }  # fmt: skip
    recipe = folder / "served.yaml"
    recipe.write_text(json.dumps({"model": str(model), "build": build}))
    return recipe


def run_build(recipe: Path, out: Path) -> None:
    done = CliRunner().invoke(load_commands(), ["build", str(recipe), "--out", str(out)])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def bad(parrot_folder: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """The run folder of a build on the bad day, and what the server saw of it."""
    folder = tmp_path_factory.mktemp("bad")
    with ServerProcess(muddled, bad_day) as server:
        run_build(write_recipe(folder, server.url, parrot_folder, world), folder / "run")
        return folder / "run", server.record()


def account(run: Path, world: Path) -> tuple[list[Any], dict[str, tuple[str, str]]]:
    """The pairs, and why images have none. Each image is in one of the two, once."""
    pairs = list(read_pairs(run / "build/pairs"))
    rejects = [json.loads(line) for line in (run / "build/pairs/rejects.jsonl").read_text().splitlines()]
    listed = [json.loads(line)["id"] for line in world.read_text().splitlines()]
    assert Counter([*{pair.provenance["source"] for pair in pairs}, *(row["id"] for row in rejects)]) == Counter(listed)
    assert len({pair.id for pair in pairs}) == len(pairs)
    for table in json.loads((run / "build/build_result.json").read_text())["counts"].values():
        assert table["in"] == sum(table.values()) - table["in"]
    return pairs, {row["id"]: (row["stage"], row["reason"]) for row in rejects}


def expected_reasons(world: Path) -> dict[str, tuple[str, str]]:
    """Why each image that the bad day hits for good has no pair."""
    found = {"i1": ("decode", "truncated"), "i2": ("annotation", "no_objects")}
    for row in map(json.loads, world.read_text().splitlines()):
        names = ", ".join(item["name"] for item in row["objects"])
        if row["id"] in found:
            continue
        if names in LASTING:
            found[row["id"]] = ("judge", REASONS[LASTING[names]])
        elif names == MUDDLED:
            found[row["id"]] = ("judge", "no_verdict")
        elif names.startswith("bird"):
            found[row["id"]] = ("rewrite", "reply_cut_off")
        elif {"cat", "dog", "cup"} <= set(names.split(", ")):
            found[row["id"]] = ("filter", "no_pair")
    return found


@pytest.mark.slow
def test_a_build_on_a_bad_day(bad: tuple[Path, Record], parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    run, seen = bad
    assert set(seen.faults) == {*FAULTS, "length"}, "every fault was met"
    pairs, why = account(run, world)
    assert why == expected_reasons(world)
    with ServerProcess(muddled) as calm:
        run_build(write_recipe(tmp_path, calm.url, parrot_folder, world), tmp_path / "calm")
        assert not calm.record().faults
    lost = {name for name, (stage, _) in why.items() if stage in ("judge", "rewrite")}
    undisturbed = [pair for pair in account(tmp_path / "calm", world)[0] if pair.provenance["source"] not in lost]
    described = [pair for pair in pairs if pair.provenance["kind"] == "description"]
    assert described == [pair for pair in undisturbed if pair.provenance["kind"] == "description"] and described
    assert not any(CUT_OFF in pair.chosen_text for pair in pairs)


@pytest.mark.slow
def test_killed_on_a_bad_day_it_ends_with_the_same_bytes(
    bad: tuple[Path, Record], parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    """`mmpo build` in a process of its own, killed again and again while replies are under way."""
    deaths = 0
    with ServerProcess(muddled, bad_day) as server:
        recipe = write_recipe(tmp_path, server.url, parrot_folder, world)
        for target in (5, 25, 50):
            child = multiprocessing.get_context("fork").Process(target=run_build, args=(recipe, tmp_path / "run"))
            child.start()
            while child.is_alive() and server.record().answered.total() < target:
                time.sleep(0.01)
            child.kill()
            child.join()
            deaths += child.exitcode == -signal.SIGKILL
        run_build(recipe, tmp_path / "run")
    assert deaths == 3
    for cache in (tmp_path / "run/build/replies").iterdir():
        whole = [line for line in cache.read_text().splitlines() if line.endswith("}")]  # a death leaves half a line
        keys = [json.loads(line)["key"] for line in whole]
        assert len(set(keys)) == len(keys) > 50, "what was said is not asked again"
    account(tmp_path / "run", world)
    for path in (bad[0] / "build/pairs").rglob("*"):
        if path.is_file():
            assert (tmp_path / "run" / path.relative_to(bad[0])).read_bytes() == path.read_bytes(), path.name
