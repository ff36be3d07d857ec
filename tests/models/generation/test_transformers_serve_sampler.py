"""`transformers serve`, a real server with the demo model, answers as the model in this process does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.chat.settings import SamplerSettings
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.served import open_served
from tests.chat.served import serving
from tests.models.generation.test_served import DEMO, QUESTIONS, refuse
from tests.tiny import tiny_image

pytestmark = pytest.mark.slow


def test_the_demo_model_behind_transformers_serve(tmp_path: Path) -> None:
    groups = [(tiny_image(number), QUESTIONS) for number in range(3)]
    here = list(AnswerEngine(load_vlm(DEMO, dtype="auto"), max_new_tokens=24).answer(groups))
    with serving(DEMO, tmp_path / "serve.log") as url:
        sampler = SamplerSettings(url=url, model=str(DEMO), timeout=200)
        with open_served(sampler, tmp_path, load=refuse, max_new_tokens=24) as served:
            assert not served.log_probs
            there = list(served.answer(groups))
            drawn = list(served.sample_many([(tiny_image(0), QUESTIONS[2])], 3, temperature=1.0, greedy_first=True))
    assert [(one.id, one.text, one.truncated) for one in there] == [(one.id, one.text, one.truncated) for one in here]
    assert len(drawn[0]) == 4 and drawn[0][0].text == here[2].text
