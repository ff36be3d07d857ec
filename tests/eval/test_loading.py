"""How an evaluation loads its model: with its own code where that is allowed, in four bits where that is asked for."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from tests.eval.evaluating import answers_in, settings

ONE = {"benchmarks": ["chair"], "limit": 1, "adapter": None, "chair": {"max_new_tokens": 2, "prompt": "What?"}}


def test_the_model_runs_its_own_code_only_where_that_is_allowed(world: Path, tmp_path: Path) -> None:
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(world / "model", folder)
    (folder / "own_code.py").write_text(
        "from pathlib import Path\nfrom transformers import LlavaConfig, LlavaForConditionalGeneration\n"
        f"Path({str(ran)!r}).touch()\n"
        "class OwnConfig(LlavaConfig):\n    pass\n"
        "class OwnModel(LlavaForConditionalGeneration):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "own_code.OwnConfig",
        "AutoModelForImageTextToText": "own_code.OwnModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    evaluate(settings(world, **ONE, model=str(folder)), tmp_path / "without")
    assert not ran.exists()
    evaluate(settings(world, **ONE, model=str(folder), trust_remote_code=True), tmp_path / "with")
    assert ran.exists() and len(answers_in(tmp_path / "with")) == 1


def test_four_bits_are_asked_for(world: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(UserError, match="needs the package bitsandbytes"):
            evaluate(settings(world, **ONE, quantize="nf4"), tmp_path / "run")
        return
    evaluate(settings(world, **ONE, quantize="nf4"), tmp_path / "four")
    evaluate(settings(world, **ONE), tmp_path / "whole")
    keys = [answers_in(tmp_path / name)[0]["key"] for name in ("four", "whole")]
    assert keys[0] != keys[1], "their answers are not each other's"
