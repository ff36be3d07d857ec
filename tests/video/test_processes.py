"""Decoding in time, in processes that may die, without a leak, and without libraries that are not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmpo.video import (
    BackendUnavailable,
    DecodeTimeout,
    Limits,
    read_frames,
)
from mmpo.video.records import Deadline
from mmpo.video.subprocess_reader import DecodeProcess
from tests.video.clips import numbers_of


def test_the_clock_is_watched_between_packets(clip: Path) -> None:
    with pytest.raises(DecodeTimeout):
        read_frames(clip, backend="pyav", limits=Limits(timeout=0.0))


def test_a_looping_decoder_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: Path) -> None:
    """decord that never comes back, simulated by a package of that name which loops."""
    package = tmp_path / "decord"
    package.mkdir()
    (package / "__init__.py").write_text("while True:\n    pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    helper = DecodeProcess()
    started = time.monotonic()
    with pytest.raises(DecodeTimeout):
        helper.ask({"op": "decord", "path": str(clip), "frames": [0], "size": None, "threads": 1}, Deadline("x", 3.0))
    assert time.monotonic() - started < 10
    assert helper.pid is None


@pytest.mark.slow
def test_a_helper_whose_parent_died_ends_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: Path) -> None:
    import subprocess
    import sys

    package = tmp_path / "decord"
    package.mkdir()
    (package / "__init__.py").write_text(
        f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nwhile True:\n    pass\n"
    )
    script = (
        "import os, threading\n"
        "from mmpo.video.records import Deadline\n"
        "from mmpo.video.subprocess_reader import shared_process\n"
        f"request = {{'op': 'decord', 'path': {str(clip)!r}, 'frames': [0], 'size': None, 'threads': 1}}\n"
        "asking = threading.Thread(target=shared_process().ask, args=(request, Deadline('x', 5.0)), daemon=True)\n"
        "asking.start()\n"
        f"import time\nwhile asking.is_alive() and not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.05)\n"
        "time.sleep(0.2)\nos._exit(9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"},
        check=False,
    )
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 15
    while time.monotonic() < end and _alive(pid):
        time.sleep(0.1)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_dead_helper_is_replaced(clip: Path) -> None:
    helper = DecodeProcess()
    request = {"op": "decord", "path": str(clip), "frames": [0, 30], "size": None, "threads": 1}
    reply, pixels = helper.ask(request, Deadline("x", 30.0))
    assert reply["count"] == 60 and numbers_of(pixels) == [0, 30]
    assert helper.pid is not None
    os.kill(helper.pid, 9)
    time.sleep(0.2)
    assert numbers_of(helper.ask(request, Deadline("x", 30.0))[1]) == [0, 30]
    helper.close()
    assert helper.pid is None


@pytest.mark.parametrize("cycles", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_memory_and_handles_stay_put(clip: Path, cycles: int) -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    for _ in range(20):
        read_frames(clip, num=8)
    before, handles = resident(), len(os.listdir("/proc/self/fd"))
    for number in range(cycles):
        read_frames(clip, num=8, backend="pyav" if number % 2 else "auto")
    assert resident() - before < 30
    assert len(os.listdir("/proc/self/fd")) <= handles + 1


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader(clip: Path, method: str) -> None:
    from torch.utils.data import DataLoader

    read_frames(clip, indices=range(20))  # this process has a helper of its own before the workers start
    loader = DataLoader(
        Clips([clip] * (200 if method == "fork" else 40)),
        batch_size=None,
        num_workers=4 if method == "fork" else 2,
        multiprocessing_context=method,
        timeout=120,
    )
    assert all(numbers == list(range(0, 60, 4)) for numbers in loader)


class Clips:
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[int]:
        backend = "decord" if index % 20 == 0 else "pyav"
        return numbers_of(read_frames(self.paths[index], indices=range(0, 60, 4), backend=backend).array)  # type: ignore[arg-type]


def test_without_the_libraries_it_imports_and_says_what_to_install(clip: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys\n"
        "for name in ('av', 'decord', 'torchcodec'):\n"
        "    sys.modules[name] = None\n"
        "from mmpo.video import BackendUnavailable, read_frames\n"
        "assert 'torch' not in sys.modules\n"
        "try:\n"
        f"    read_frames({str(clip)!r})\n"
        "except BackendUnavailable as error:\n"
        "    print(error.message)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install av" in ran.stdout


def test_torchcodec_reads_the_same_or_declines(clip: Path) -> None:
    expected = read_frames(clip, num=8, backend="pyav")
    try:
        frames = read_frames(clip, num=8, backend="torchcodec")
    except BackendUnavailable as error:
        pytest.skip(error.message)
    assert frames.indices == expected.indices and numbers_of(frames.array) == list(frames.indices)
