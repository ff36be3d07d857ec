"""The commands of the fault tests, each in a process of its own on a small model and a few drawn images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.locks import NAME
from tests.data_builders import parrot
from tests.trainers.material import write_pairs

ROOT = Path(__file__).parents[2]
CLOCKS = {"seconds", "pairs_per_second", "eval_runtime"}
RUN_COMMANDS = ("build", "train", "eval", "run")


@dataclass(frozen=True)
class World:
    """A model, images, a recipe with all sections, and pairs to convert."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, model: Path, images: int = 12) -> World:
        annotations = Path(parrot.write_world(folder / "world", images))
        recipe = {
            "model": str(model),
            "build": {
                "annotations": str(annotations), "prompts": [parrot.DESCRIBE], "qa": {"questions_per_image": 4},
                "max_new_tokens": 48, "samples_per_image": 1, "shard_size": 3,
            },
            "train": {
                "max_steps": 12, "batch_size": 2, "save_steps": 3, "logging_steps": 2, "eval_fraction": 0.25,
                "samples": {"n": 0},
            },
            "eval": {
                "images": str(annotations.parent), "annotations": str(annotations), "benchmarks": ["pope"],
                "pope": {"splits": ["random"], "questions_per_image": 2, "max_new_tokens": 2},
                "bootstrap": {"samples": 100},
            },
        }  # fmt: skip
        write_pairs(folder / "to-convert", 200)
        (folder / "all.yaml").write_text(json.dumps(recipe))
        return cls(folder)

    def words(self, command: str, out: Path) -> list[str]:
        """The command line that works into `out`."""
        if command == "convert":
            return ["convert", str(self.folder / "to-convert"), str(out), "--to", "llamafactory"]
        return [command, str(self.folder / "all.yaml"), "--out", str(out)]


def start(words: list[str], **options: Any) -> subprocess.Popen[str]:
    code = "import sys; from mmpo.cli import main; sys.argv[0] = 'mmpo'; main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "1000"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def lock_of(out: Path, command: str) -> Path:
    return out.parent / f".{out.name}{NAME}" if command == "convert" else out / NAME


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the file is there and holds something."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if path.stat().st_size:
                return
        time.sleep(0.002)


def artefacts(out: Path) -> dict[str, Any]:
    """What must come out the same whenever a command was killed: every file, without clocks and logs."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        kept = path.suffix in (".parquet", ".safetensors", ".md", ".json", ".jsonl", ".jpeg", ".png")
        timed = path.name in ("step.json", "results.json", "engine.json", "complete.json", "trainer_state.json")
        if not path.is_file() or not kept or timed or path.name in ("answers.jsonl", "near_ties.jsonl"):
            continue
        if path.name in ("metrics.jsonl", "train_result.json"):
            found[name] = [_without_clocks(json.loads(text)) for text in _documents(path)]
        else:
            found[name] = path.read_bytes().replace(str(out).encode(), b"OUT")
    return found


def _documents(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        dropped = CLOCKS | {"resumed_from"}
        return {key: _without_clocks(item) for key, item in value.items() if key not in dropped}
    return value
