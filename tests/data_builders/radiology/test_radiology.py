"""The radiology builder: pairs, every filter, resuming, privacy, a judge behind real HTTP."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpo.data.reader import read_pairs
from mmpo.data_builders.builders import build
from mmpo.data_builders.radiology import build as radiology
from mmpo.data_builders.radiology.builder import RadiologyCounts, _Source
from mmpo.data_builders.radiology.settings import RadiologySettings
from mmpo.errors import UserError
from mmpo.radiology.detector import RuleDetector
from tests.chat.server import ChatServer
from tests.tiny import contents

REPORTS = [
    "FINDINGS: Heart size is unchanged. Small left effusion is again noted. No pneumothorax. Lungs are otherwise clear.",  # noqa: E501
    "FINDINGS: The lungs are clear. There is no effusion.",
    "FINDINGS: No change.",
    "FINDINGS: Edema. " + "No interval change. " * 20 + "Clear bones seen.",
    "HISTORY: cough",
    "IMPRESSION: Stable.",
    "FINDINGS: Compared to the prior film, there is a larger right effusion with atelectasis. Heart is normal.",
]


def settings(folder: Path, **changes: Any) -> RadiologySettings:
    Image.new("L", (32, 32), 90).save(folder / "a.png")
    rows = [{"id": f"r{i}", "report": text, "image": "a.png", "patient": i} for i, text in enumerate(REPORTS)]
    rows += [
        {"id": "gone", "report": "Stable effusion.", "image": "gone.png"},
        {"id": "out", "report": "Stable effusion.", "image": "../a.png"},
        {"id": "none", "report": "Stable effusion."},
        {"id": "given", "report": "Stable effusion.", "image": "a.png", "has_prior": True},
    ]
    path = folder / "reports.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RadiologySettings(**{"builder": "radiology", "reports": path, "shard_size": 3, **changes})


def test_pairs_and_counts(tmp_path: Path) -> None:
    result = build(settings(tmp_path), tmp_path / "run")
    pairs = list(read_pairs(tmp_path / "run" / "pairs"))
    assert [pair.id for pair in pairs] == ["r0/r0", "r6/r0"] and result.pairs_made == 2
    assert pairs[0].chosen_text == "Small left effusion is noted. No pneumothorax. Lungs are otherwise clear."
    assert pairs[0].rejected_text == REPORTS[0].removeprefix("FINDINGS: ")
    heavy = [pairs[0].rejected_text[s["start"] : s["end"]] for s in pairs[0].rejected_weights or [] if s["weight"] == 1]
    assert heavy == ["Heart size is unchanged.", " again"]
    assert not any(RuleDetector().flags(pair.chosen_text) for pair in pairs)
    reasons = result.counts["reports"]
    for reason in ("read: no_findings", "read: no_section", "decode: missing", "decode: path_escape", "read: no_image",
                   "filter: has_prior", "filter: no_reference"):  # fmt: skip
        assert reasons[reason] == 1, reasons
    assert result.counts["texts"]["too_little_left"] == 1 and result.counts["texts"]["too_much_removed"] == 1
    assert result.lines_with_priors > 1 and result.chosen_words < result.rejected_words


def test_other_filters(tmp_path: Path) -> None:
    options = settings(tmp_path)
    builder = radiology.RadiologyBuilder(options, RuleDetector(), radiology.RuleEditor(), None)
    assert builder._unfit("Heart is large and long and wide.", "Heart is large.") == "longer_than_rejected"
    assert builder._unfit("Heart is  large.", "Heart is large.") == "equal"
    assert builder._unfit("Heart is stable now.", "Heart is stable since the prior film.") == "still_a_reference"
    assert builder._unfit("Heart is large.", "Heart is large, unchanged.") is None
    texts = ["", "Stable small left effusion.", "Stable small left effusion."]
    (source,) = [_Source(report, b"", "?", [("model", text, None) for text in texts])
                 for report in radiology.read_reports(options.reports) if report.id == "r0"]  # fmt: skip
    tally = RadiologyCounts()
    builder._pairs(source, tally)
    assert tally.texts == {"in": 3, "empty": 1, "paired": 1, "duplicate": 1}


def test_injected_and_held_out(tmp_path: Path) -> None:
    result = build(settings(tmp_path, sources=["injected"], held_out_share=0.5), tmp_path / "run")
    pairs = [pair for name in ("pairs", "held_out") for pair in read_pairs(tmp_path / "run" / name)]
    assert [pair.id for pair in pairs] == ["r1/i0"] and result.held_out == "held_out"
    assert (
        pairs[0].chosen_text == "The lungs are clear. There is no effusion."
        and pairs[0].provenance["judge"] == "injected"
    )


def test_killed_at_any_unit_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = settings(tmp_path)
    build(options, tmp_path / "whole")
    real, calls = radiology.RadiologyBuilder.build, [0]

    def stops(self: Any, sources: Any) -> Any:
        calls[0] += 1
        if calls[0] % 2 == 0:
            raise KeyboardInterrupt
        return real(self, sources)

    monkeypatch.setattr(radiology.RadiologyBuilder, "build", stops)
    for _ in range(10):
        try:
            build(options, tmp_path / "broken")
            break
        except KeyboardInterrupt:
            continue
    assert calls[0] > 4 and contents(tmp_path / "broken") == contents(tmp_path / "whole")
    with pytest.raises(UserError, match="another `min_words`"):
        build(settings(tmp_path, min_words=4), tmp_path / "broken")


def answer(prompt: str) -> str:
    lines = re.findall(r"(?m)^(\d+)\. (.*)$", prompt.partition("Lines:")[2])
    edits = {
        "Heart size is unchanged.": ("all", ""),
        "Small left effusion is again noted.": ("partial", "Small left effusion is noted."),
    }
    return json.dumps(
        [dict(zip(("i", "label", "edit"), (int(i), *edits.get(t, ("none", t))), strict=True)) for i, t in lines]
    )


def test_a_judge_edits(tmp_path: Path) -> None:
    with ChatServer(answer=answer) as server:
        editor = {"by": "model", "model": server.settings().model_dump()}
        build(settings(tmp_path, editor=editor, limit=2), tmp_path / "run")
    (pair,) = read_pairs(tmp_path / "run" / "pairs")
    assert pair.chosen_text == "Small left effusion is noted. No pneumothorax. Lungs are otherwise clear."


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("nonsense", "not_json"),
        ('[{"i": 1, "label": "none"}]', "lines_missing"),
        ("add", "word_added"),
        ("flip", "content_changed"),
    ],
)
def test_a_judge_that_errs_is_asked_again_and_then_dropped(tmp_path: Path, said: str, reason: str) -> None:
    wrong = {"add": "Small left effusion is noted with tumour.", "flip": "No small left effusion is noted."}.get(said)

    def reply(prompt: str) -> str:
        return answer(prompt).replace("Small left effusion is noted.", wrong) if wrong else said

    with ChatServer(answer=reply) as server:
        editor = {"by": "model", "tries": 2, "model": server.settings().model_dump()}
        result = build(settings(tmp_path, editor=editor, limit=1), tmp_path / "run")
        assert len(server.requests) == 2
    assert result.counts["texts"][reason] == 1


def test_credentialed_reports_stay_here(tmp_path: Path) -> None:
    remote = {"backend": "server", "model": "m", "base_url": "https://api.example.org/v1"}
    with pytest.raises(UserError, match="credentialed"):
        build(settings(tmp_path, credentialed=True, editor={"by": "model", "model": remote}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_models_own_reports(tmp_path: Path, tiny_llava_folder: Path) -> None:
    options = settings(
        tmp_path, sources=["model"], model=str(tiny_llava_folder), max_new_tokens=6, samples_per_image=1, limit=3
    )
    result = build(options, tmp_path / "run")
    assert result.counts["texts"]["in"] == 6 and result.images == 3
