"""Run folders: where a run keeps its recipe, its versions, its log and what every step made.

    runs/demo-20260101-120000/
      recipe.yaml       the recipe as it ran: overrides applied, references resolved
      versions.json     python, torch, transformers, … mmpo, and plug-ins
      run.log           everything that was logged
      build/ train/ …   one folder a step, with its outputs and `step.json`: settings, state, result
      results.json      the results of the finished steps, side by side

A step that is complete is not done again, so running the same command on the same folder continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import mmpo
from mmpo import plugins
from mmpo.errors import UserError
from mmpo.files.atomic import read_sealed, write_json, write_sealed, write_text
from mmpo.resuming import has_work

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "pillow")
SectionState = Literal["absent", "started", "complete"]


def is_main_process() -> bool:
    """True in the one process that writes: the only one, or rank 0 under a launcher such as `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def versions() -> dict[str, str]:
    """Versions of everything that decides a result, read from package metadata (nothing is imported), and of the
    plug-ins that are loaded."""
    found = {"mmpo": mmpo.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | {f"plug-in {name}": plugin.version for name, plugin in plugins.loaded().items()}


def choose_folder(name: str, *, out: Path | None, resume: bool, root: Path = Path("runs")) -> Path:
    """The folder for a run of recipe `name`: `out`, else a new `runs/NAME-TIME`, or with `resume` the latest of these.

    Raises UserError where `resume` finds nothing to continue, or where `out` is a file or another kind of folder.
    """
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file", hint="name a folder; it is made if it does not exist")
        # (a run that died at once has left no more than hidden files: its lock, a file half-written)
        others = out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir())
        if others and not (out / "recipe.yaml").exists():
            raise UserError(f"--out {out} holds other files and no run", hint="name a new or empty folder")
        if resume and not (out / "recipe.yaml").exists():
            raise UserError(f"--resume: there is no run in {out}", hint="without --resume it starts there")
        return out
    if process_count() > 1:
        raise UserError("several processes need to agree on one folder", hint="add --out DIR")
    if resume:
        stamped = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
        earlier = [folder for folder in root.glob(f"{name}-*") if stamped.fullmatch(folder.name)]
        if not earlier:
            raise UserError(
                f"--resume: there is no earlier run of {name} in {root}/", hint="name its folder: --out DIR"
            )
        return max(earlier, key=lambda folder: (folder.stat().st_mtime, folder.name))
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = root / f"{name}-{stamp}", 1
    while folder.exists():
        folder, number = root / f"{name}-{stamp}-{number}", number + 1
    return folder


class Step:
    """One step of a run (`build`, `train`, …): its folder, and in `step.json` its settings, state and result."""

    def __init__(self, run: RunFolder, name: str) -> None:
        self.run = run
        self.name = name
        self.path = run.path / name
        self._file = self.path / "step.json"

    def record(self) -> dict[str, Any]:
        """The content of `step.json`; empty where the step has not started. Raises UserError where it is unreadable."""
        try:
            return read_sealed(self._file, hint=f"delete {self.path} to make this step again")
        except UserError:
            if not self._file.exists():
                return {}
            raise

    @property
    def state(self) -> SectionState:
        found: SectionState = self.record().get("state", "absent")
        return found

    @property
    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = self.record().get("result", {})
        return result

    def digest(self) -> str:
        """A name for what this step was made from: its settings and, through them, the steps before it."""
        record = self.record()
        made_from = json.dumps([record.get("settings"), record.get("inputs")], sort_keys=True)
        return hashlib.sha256(made_from.encode()).hexdigest()[:16]

    def needs(self, settings: Mapping[str, Any]) -> list[str]:
        """The other steps of this run whose outputs `settings` name."""
        named = re.findall(r"\$\{run\}/([^/\"\\]+)", json.dumps(self._portable(settings)))
        return sorted(set(named) - {self.name})

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises UserError if this step was begun with other settings, or from other results of earlier steps. One that
        failed before it did anything was not begun."""
        record = self.record()
        if not record or (record.get("state") == "started" and not has_work(self.path)):
            return
        remedy = f"take another --out, or delete {self.path} to make it again"
        changed = differences(record["settings"], self._portable(settings), self.name)
        if changed:
            raise UserError(f"{self.path} was made with other settings: {changed[0]}", hint=remedy)
        for name, digest in record["inputs"].items():
            if self.run.step(name).digest() != digest:
                raise UserError(f"{self.path} was made from another {name} than the one that is there now", hint=remedy)

    def do(
        self, settings: Mapping[str, Any], work: Callable[[], Mapping[str, Any]], *, again: bool = False
    ) -> dict[str, Any]:
        """Do `work` unless it is complete from the same settings; its result is kept and returned.

        `work` finds whatever an interrupted try left in the folder and continues from it. `again` does it whatever is
        there, and leaves it to `work` to remove that.
        """
        if not again:
            self.check(settings)
            if self.state == "complete":
                return self.result
        started = time.time()
        portable = self._portable(settings)
        inputs = {name: self.run.step(name).digest() for name in self.needs(settings)}
        record = {"state": "started", "settings": portable, "inputs": inputs}
        self._write(record)
        result: dict[str, Any] = _plain(dict(work()))
        self._write({**record, "state": "complete", "seconds": round(time.time() - started, 1), "result": result})
        return result

    def _write(self, record: Mapping[str, Any]) -> None:
        if is_main_process():
            write_sealed(self._file, record)

    def _portable(self, value: Any) -> Any:
        """Settings as JSON data with the run's own folder written `${run}`: a moved run stays the same run."""
        return _replace_folder(_plain(value), str(self.run.path))


class RunFolder:
    """One run. Creating the object touches nothing; `open` makes the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, recipe_text: str) -> None:
        """Make the folder, with the resolved recipe and the versions in it."""
        if not is_main_process():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the run folder {self.path} cannot be made: {error.strerror}") from error
        write_text(self.path / "recipe.yaml", recipe_text)
        write_json(self.path / "versions.json", versions())

    def step(self, name: str) -> Step:
        return Step(self, name)

    def write_results(self, names: Sequence[str], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`results.json`: the results of the complete steps among `names`, and `more`."""
        steps = [self.step(name) for name in names]
        results = {step.name: step.result for step in steps if step.state == "complete"} | dict(more or {})
        if is_main_process():
            write_json(self.path / "results.json", results)
        return results


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """The differences between two settings, each as `key.key: 1 -> 2`."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys((*before, *now)):
            found += differences(before.get(key), now.get(key), f"{at}.{key}" if at else key)
        return found
    return [] if before == now else [f"{at}: {before!r} -> {now!r}"]


def _plain(value: Any) -> Any:
    """As JSON data: paths as text, a number that is none (NaN, infinity) as null."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)


def _replace_folder(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _replace_folder(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_folder(item, folder) for item in value]
    if isinstance(value, str) and (value == folder or value.startswith(folder + os.sep)):
        return "${run}" + value[len(folder) :].replace(os.sep, "/")
    return value
