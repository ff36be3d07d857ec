"""`import mmpo`, the recipes' settings and the help must not bring torch: that is what makes them quick."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "pyarrow", "scipy", "pandas")


def loaded_after(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after running `code`."""
    probe = (
        f"import json, sys\n{code}\nsys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stderr)
    return loaded


def test_the_probe_sees_a_heavy_import() -> None:
    assert loaded_after("import scipy") == ["scipy"]


@pytest.mark.parametrize(
    "code",
    [
        "import mmpo, mmpo.errors; mmpo.__version__; mmpo.errors.UserError",
        "import mmpo.progress, mmpo.runs",
        "import mmpo.cli.app as app; app.load_commands()",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded_after(code) == []


@pytest.mark.parametrize("code", ["from mmpo import PreferencePair", "import mmpo.data.pair", "import mmpo.recipes"])
def test_no_torch_is_imported(code: str) -> None:
    assert "torch" not in loaded_after(code)
    assert "transformers" not in loaded_after(code)


def test_every_public_name_loads() -> None:
    import mmpo

    for name in mmpo.__all__:
        assert getattr(mmpo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mmpo.nonsense
