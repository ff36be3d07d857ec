"""A whole build whose judge and writer are a small text model behind `transformers serve`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data_builders.hallucination.build import build
from tests.chat.served import serving, settings_for
from tests.chat.text_model import save_text_model
from tests.data_builders import parrot
from tests.data_builders.hallucination.test_build import pairs_of, settings
from tests.data_builders.hallucination.test_judges import accounted

RIGHT, BOTH, WORDED = "There is a cat.", "I see a cat, a dog and two cups.", "I see a cat."
WRONG = f"1. hallucination: not marked\nCorrected:\n{RIGHT}"
LEARNT = {
    f"1. {parrot.CAPTION}\nVerdicts:": WRONG,
    f"1. {BOTH}\nVerdicts:": WRONG,
    f"1. {WORDED}\nVerdicts:": "1. correct: marked",
    f"Say anew: {parrot.CAPTION}": f"1. {BOTH}",
    f"Say anew: {RIGHT}": f"1. {WORDED}",
}
"""What the model has by heart: it knows one picture only, as the tiny model it judges does."""


@pytest.mark.slow
def test_a_build_with_a_served_model(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    model = save_text_model(tmp_path / "model", LEARNT)
    templates = {"judge": tmp_path / "judge.j2", "writer": tmp_path / "writer.j2"}
    templates["judge"].write_text("{% for s in sentences %}{{ loop.index }}. {{ s }}\n{% endfor %}Verdicts:")
    templates["writer"].write_text("Say anew: {{ text }}")
    with serving(model, tmp_path / "serve.log") as url:
        chat = settings_for(model, url).model_dump()
        values = {
            "judge": chat, "writer": chat, "samples_per_image": 0, "omission_share": 0.0, "qa": None,
            "templates": {name: str(path) for name, path in templates.items()},
        }  # fmt: skip
        result = build(settings(parrot_folder, world, **values), tmp_path / "run")
    used, rejects = accounted(tmp_path / "run", result)
    pairs = pairs_of(tmp_path / "run", "description")
    assert {(pair.chosen_text, pair.rejected_text) for pair in pairs} == {(WORDED, BOTH)}
    assert len(used) == len(pairs) == 10 and {row["id"] for row in rejects} == {"i1", "i2"}
    verdicts = json.dumps(pairs[0].provenance["verdicts"])
    assert "not marked" in verdicts and "hallucination" in verdicts
