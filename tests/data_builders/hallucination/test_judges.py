"""Text models as judge, writer and question maker: how replies are read, and whole builds against a real HTTP server
with faults, where every image ends as pairs or in quarantine, none twice.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmpo.chat.templates import render
from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject, Region
from mmpo.data.shards import read_pairs
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.judges import read_judgement, read_list, read_question, region_lines
from mmpo.errors import Quarantined, UserError
from tests.chat.server import FAULTS, ChatServer
from tests.data_builders import parrot
from tests.data_builders.careful import scripted
from tests.data_builders.hallucination.test_build import settings

TEXT = "There is a cat. It is calm. A dog sleeps."


@pytest.mark.parametrize(
    "reply",
    [
        "1. correct: yes\n2. cannot judge: mood\n3. hallucination: no dog\nCorrected:\nThere is a cat. It is calm.",
        "Sure!\n\n**1. Correct**: yes\n2) Cannot judge - mood\n3: HALLUCINATION. no dog\n\n"
        "**Corrected:** There is a cat. It is calm.\n",
        '3. hallucination: no dog\n1. correct\n2. cannot_judge\nCorrected description:\n"There is a cat. It is calm."',
    ],
)  # fmt: skip
def test_judgements(reply: str) -> None:
    judgement = read_judgement(reply, TEXT)
    assert [v.verdict for v in judgement.verdicts] == ["correct", "unchecked", "hallucination"]
    assert judgement.corrected == "There is a cat. It is calm."
    assert [TEXT[v.start :].startswith(v.text) for v in judgement.verdicts] == [True] * 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I can't help with that.", "no_verdict"),
        ("1. correct: a\n3. correct: b", "no_verdict"),
        ("1. correct\n2. correct\n3. hallucination: dog", "no_correction"),
        ("1. correct\n2. correct\n3. hallucination: dog\nCorrected:\n", "no_correction"),
    ],
)
def test_judgements_that_are_none(reply: str, reason: str) -> None:
    with pytest.raises(Quarantined) as caught:
        read_judgement(reply, TEXT)
    assert caught.value.reason == reason


def test_a_right_text_needs_no_correction() -> None:
    assert read_judgement("1. correct\n2. cannot judge\n3. correct", TEXT).corrected == TEXT


def test_lists() -> None:
    assert read_list("1. One\n  more.\n2) Two.\n3. Three.", 2) == ["One more.", "Two."]
    assert read_list("Just this.", 1) == ["Just this."]
    for reply in ("", "no list"):
        with pytest.raises(Quarantined):
            read_list(reply, 2)


def test_questions() -> None:
    made = read_question("**Question:** Is there a dog?\nAnswer: No.\nObject: Dog.")
    assert (made.question, made.yes, made.object) == ("Is there a dog?", False, "dog")
    for reply in (
        "Question: Is there a dog?\nAnswer: maybe\nObject: dog",
        "Question: a dog\nAnswer: no\nObject: dog",
        "",
    ):
        with pytest.raises(Quarantined):
            read_question(reply)


def test_what_a_judge_reads() -> None:
    image = AnnotatedImage(
        "i", "i.png", Path("."), 200, 100, (AnnotatedObject("cow"), AnnotatedObject("cow")), ("A field.",),
        (Region("two cows", (20, 10, 100, 50)), Region("grass")),
    )  # fmt: skip
    assert region_lines(image) == ["[0.10, 0.10, 0.60, 0.60]: two cows", "grass"]
    prompt = render(
        "ha_dpo_judge",
        sentences=["A cow.", "A dog."],
        regions=region_lines(image),
        objects=["cow (2)"],
        captions=["A field."],
    )
    assert "1. A cow.\n2. A dog." in prompt and "cow (2)" in prompt and "[0.10, 0.10, 0.60, 0.60]: two cows" in prompt


def with_models(server: ChatServer, parrot_folder: Path, world: Path, **changes: Any) -> Any:
    chat = server.settings(retries=2, timeout=2.0, concurrency=4, give_up_after=None).model_dump()
    values = {"judge": chat, "writer": chat, "variants": 3, "samples_per_image": 1, "qa": {"writer": chat}}
    return settings(parrot_folder, world, **(values | changes))


def accounted(folder: Path, result: Any) -> tuple[set[str], list[dict[str, Any]]]:
    """Every image is in the pairs or in the rejects, once."""
    pairs = list(read_pairs(folder / "pairs"))
    rejects = [json.loads(line) for line in (folder / "pairs/rejects.jsonl").read_text().splitlines()]
    used = {pair.provenance["source"] for pair in pairs}
    assert len({pair.id for pair in pairs}) == len(pairs)
    assert Counter([*used, *(row["id"] for row in rejects)]) == Counter(f"i{number}" for number in range(12))
    for table in result.counts.values():
        assert table["in"] == sum(table.values()) - table["in"]
    return used, rejects


def test_a_build_with_text_models_and_passing_faults(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    passing = [fault for fault in FAULTS if fault != "hang"]

    def fault(prompt: str, attempt: int) -> str | None:
        return passing[len(prompt) % len(passing)] if attempt == 1 else None

    with ChatServer(scripted) as calm:
        plain = build(with_models(calm, parrot_folder, world), tmp_path / "calm", generations=tmp_path / "generations")
        asked = sum(calm.answered.values())
    with ChatServer(scripted, fault) as server:
        result = build(
            with_models(server, parrot_folder, world), tmp_path / "run", generations=tmp_path / "generations"
        )
        assert max(server.answered.values()) == 1 and sum(server.answered.values()) == asked
        assert sum(server.attempts.values()) > asked
    used, rejects = accounted(tmp_path / "run", result)
    assert result == plain and len(used) >= 8
    assert {(row["stage"], row["reason"]) for row in rejects} >= {("decode", "truncated"), ("annotation", "no_objects")}
    described = [pair for pair in read_pairs(tmp_path / "run/pairs") if pair.provenance["kind"] == "description"]
    assert described and all("hallucination" in str(pair.provenance["verdicts"]) for pair in described)
    assert {pair.rejected_text.split(" ")[0] for pair in described} >= {"Seen"}
    assert result.counts["questions"]["in"] > 0


def test_lasting_faults_quarantine_the_image_they_concern(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    """Different replies of no use: refused by the server, cut off, empty, without verdict, without list."""

    def answer(prompt: str) -> str:
        return (
            "As I see it, all is well."
            if "check a description" in prompt and "Objects: bird" in prompt
            else scripted(prompt)
        )

    def fault(prompt: str, attempt: int) -> str | None:
        if "check a description" not in prompt:
            return None
        if "Objects: dog, bird" in prompt:
            return "400"
        return "length" if "Objects: cat, cup" in prompt else None

    with ChatServer(answer, fault) as server:
        result = build(with_models(server, parrot_folder, world, qa=None, omission_share=0.0), tmp_path)
    _, rejects = accounted(tmp_path, result)
    reasons = {(row["id"], row["stage"], row["reason"]) for row in rejects}
    assert {("i8", "judge", "bad_request"), ("i0", "judge", "reply_cut_off"), ("i4", "judge", "no_verdict")} <= reasons


def test_a_rewriter_that_flips_is_noticed(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    with ChatServer(scripted) as server:
        chat = server.settings().model_dump()
        values = {"writer": chat, "variants": 3, "qa": None, "samples_per_image": 0, "omission_share": 0.0}
        result = build(settings(parrot_folder, world, **values), tmp_path)
    wordings = result.counts["wordings"]
    assert wordings["rejected_no_longer_wrong"] > 0 and wordings["kept"] > 0 and result.description_pairs > 0
    assert wordings["in"] == sum(wordings.values()) - wordings["in"]
    texts = [pair.rejected_text for pair in read_pairs(tmp_path / "pairs")]
    assert {text.split(" ")[0] for text in texts} >= {"Seen", "The"}
    marked = {f"i{n}": parrot.SCENES[n % len(parrot.SCENES)] for n in range(12)}
    for pair in read_pairs(tmp_path / "pairs"):  # the second wording speaks of cats alone
        assert not pair.rejected_text.startswith("There") or "cat" not in marked[pair.provenance["source"]]


def test_a_build_stopped_by_its_server_goes_on(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    down = {"now": False}

    def fault(prompt: str, attempt: int) -> str | None:
        return "500" if down["now"] else None

    with ChatServer(scripted, fault) as server:
        changes: dict[str, Any] = {"qa": None}
        whole = build(with_models(server, parrot_folder, world, **changes), tmp_path / "whole")
        chat = server.settings(retries=0, give_up_after=2, concurrency=1).model_dump()
        plain = with_models(server, parrot_folder, world, judge=chat, writer=chat, **changes)
        down["now"] = True
        with pytest.raises(UserError):
            build(plain, tmp_path / "run")
        down["now"] = False
        assert build(plain, tmp_path / "run") == whole
    data = "pairs/data/train-00000.parquet"
    assert parrot.CAPTION and (tmp_path / "run" / data).exists() == (tmp_path / "whole" / data).exists()
    assert list(read_pairs(tmp_path / "run/pairs")) == list(read_pairs(tmp_path / "whole/pairs"))
