"""The folder of a small evaluation, written by the real grading and scorecard: one answer of each outcome."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from mmpo.eval.answers import AnswerLog
from mmpo.eval.grading import write_grades
from mmpo.eval.pope.metrics import PopeQuestion
from mmpo.eval.pope.settings import PopeSettings
from mmpo.eval.pope.task import Pope
from mmpo.eval.protocol import Request, Response
from mmpo.eval.statistics.compare import Bootstrap, compare
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.files.atomic import write_json

SAID = {"broken": ("Yes.", "No."), "fixed": ("No.", "Yes."), "wrong": ("No.", "No."), "right": ("Yes.", "Yes.")}


def evaluated(folder: Path, hostile: str = "") -> Path:
    """Write answers.jsonl, flips.jsonl and scorecard.json of four POPE questions into `folder`."""
    images = folder / "images"
    images.mkdir(parents=True)
    questions = []
    for k, outcome in enumerate(SAID):
        out = io.BytesIO()
        Image.new("RGB", (40, 30), (60 * k, 120, 200)).save(out, "PNG")
        (images / f"<i>{outcome}.png").write_bytes(out.getvalue())
        questions.append(
            ("random", PopeQuestion(k, f"<i>{outcome}.png", f"Is there a {outcome} dog? {hostile}", "yes"))
        )
    task = Pope.on(questions, PopeSettings())
    task.root = str(images)
    responses: Any = {"before": {}, "after": {}}
    keys: dict[Any, str] = {}
    with AnswerLog(folder / "answers.jsonl") as log:
        for _, question in questions:
            request: Request = task.request(("random", question))
            for state, text in zip(responses, SAID[question.image[3:-4]], strict=True):
                text += hostile
                p_yes = 0.9 if text.startswith("Yes") else 0.1
                responses[state][request] = Response(text, False, p_yes, 1.0)
                keys[state, request] = f"{state} {question.image}"
                row = {"key": keys[state, request], "state": state, "image": question.image, "prompt": request.prompt}
                log.add({**row, "answer": text, "truncated": False, "p_yes": p_yes, "margin": 1.0})
    write_grades(folder, {"pope": task}, responses, keys)
    before, after = (task.score(responses[state])[0].tally for state in ("before", "after"))
    card = Scorecard(
        model=f"model {hostile}", adapter="a", rows=compare("pope", "random", before, after, Bootstrap(200, 0)),
        counts=[], conventions=[f"a convention {hostile}"], warnings=[f"a warning {hostile}"], quarantined={},
    )  # fmt: skip
    write_json(folder / "scorecard.json", card.model_dump(mode="json"))
    return folder
