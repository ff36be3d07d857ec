"""A model's chat template that does not end is one clear line; honest ones render as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from mmpo.chat.chat_template import render
from mmpo.errors import UserError
from mmpo.models.families.interleaved import keeps_order
from mmpo.models.families.prompts import encode_prompt
from mmpo.outside import templates
from mmpo.outside.templates import BoundedEnvironment
from tests.cli.conftest import Invoke, here, mmpo, pairs, photos, recipe
from tests.outside.test_templates import HOSTILE
from tests.tiny import tiny_llava
from tests.tiny_families import TINY

__all__ = ["here", "mmpo", "pairs", "photos", "recipe"]

TALK = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
    {"role": "user", "content": [{"type": "text", "text": "Red?"}]},
]


def test_the_installed_transformers_makes_its_templates_in_our_sandbox() -> None:
    vlm = tiny_llava()
    render(vlm.processor, TALK, source="x")
    made = chat_template_utils._compile_jinja_template(vlm.processor.chat_template)
    assert isinstance(made.environment, BoundedEnvironment)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("generation", [False, True])
def test_every_family_renders_as_without_limits(name: str, generation: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    vlm = TINY[name]()
    template = vlm.processor.chat_template or vlm.family.template
    ours = render(vlm.processor, TALK, source=name, template=template, add_generation_prompt=generation)
    chat_template_utils._compile_jinja_template.cache_clear()
    monkeypatch.setattr(chat_template_utils, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment)
    theirs = vlm.processor.apply_chat_template(
        TALK, chat_template=template, tokenize=False, add_generation_prompt=generation
    )
    chat_template_utils._compile_jinja_template.cache_clear()
    assert ours == theirs


@pytest.mark.parametrize("name", ["loops without output", "doubling by ~", "repetition", "a macro that calls itself"])
def test_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 2.0)
    vlm = tiny_llava()
    vlm.processor.chat_template = HOSTILE[name]
    for use in (lambda: encode_prompt(vlm, TALK[:1], 1), lambda: keeps_order(vlm)):
        with pytest.raises(UserError, match=r"the model's chat template is stopped: \w+") as caught:
            use()
        assert "chat_template.jinja" in str(caught.value.hint)


def test_from_the_command_line(mmpo: Invoke, recipe: Path, tiny_llava_folder: Path, here: Path) -> None:
    import shutil

    model = Path(shutil.copytree(tiny_llava_folder, here / "model"))
    (model / "chat_template.jinja").write_text(HOSTILE["doubling by ~"])
    config = model / "processor_config.json"
    data = json.loads(config.read_text())
    data.pop("chat_template", None)
    config.write_text(json.dumps(data))
    said = mmpo("train", recipe, "--out", "out", "--set", f"model={model}")
    assert said.exit_code == 2 and "Traceback" not in said.output and "please report" not in said.output
    assert "model: the model's chat template is stopped: it makes a text or list of more than" in said.stderr
