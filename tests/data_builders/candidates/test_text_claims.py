"""Claims in words: a text model splits, the sources that can answer a question judge, and a response is the worse the
more of its claims are rejected."""

from __future__ import annotations

import json
import re
from math import log
from pathlib import Path
from typing import Any

import pytest

from mmpo.chat import ChatReply
from mmpo.data.reader import read_pairs
from mmpo.data_builders.candidates.build import build
from mmpo.data_builders.candidates.records import Candidate
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.candidates.splitting import read_list, with_claims
from mmpo.data_builders.candidates.tables import CandidateTables
from mmpo.data_builders.from_candidates.build import PairsFromCandidates
from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings
from mmpo.data_builders.run import run
from mmpo.errors import Quarantined, UserError
from mmpo.evidence.cuts import AFFIRMED
from tests.chat.server import ChatServer
from tests.data_builders.candidates import world


def test_the_score_is_the_number_of_rejected_claims() -> None:
    """RLAIF-V: P(yes) .6/.4, .5/.5 (a tie is a rejection), .2/.7 give -2."""
    said = Candidate("?", 0, 0, "A cat. A dog. A cup.", False, 9)
    found = with_claims(said, ["A cat.", "A dog.", "A cup."], ["A cat?", "A dog?", "A cup?"])
    odds = [log(0.6) - log(0.4), log(0.5) - log(0.5), log(0.2) - log(0.7)]
    verdicts = {one.name: AFFIRMED.verdict(z) for one, z in zip(found.mentions, odds, strict=True)}
    assert list(verdicts.values()) == ["present", "absent", "absent"]
    judged = Candidate("?", 0, 0, found.text, False, 9, found.mentions, verdicts)
    assert -len(judged.absent) == -2 and judged.mentioned("absent") == 2


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("### Facts:\n- A cat sits.\n- There is no dog.\n", ["A cat sits.", "There is no dog."]),
        (
            "<think>\n- what?\n</think>Here:\n1. A cat.\n2) A dog.\n* A cup.\nThat is all.",
            ["A cat.", "A dog.", "A cup."],
        ),
        ("NONE", []),
        ("- None.", []),
        ("-5 degrees and rising", None),
        ("I can't help with that.", None),
        ("", None),
    ],
)
def test_lists_are_read_from_what_models_reply(text: str, items: list[str] | None) -> None:
    found = read_list(ChatReply(text, False, "m", False))
    assert found == items if items is not None else isinstance(found, Quarantined) and found.reason == "unread"
    cut = read_list(ChatReply(text, True, "m", False))
    assert isinstance(cut, Quarantined) and cut.reason == "cut_off"


def test_questions_that_do_not_match_the_facts_put_the_candidate_out() -> None:
    said = Candidate("?", 0, 0, "A cat. A dog.", False, 9)
    assert with_claims(said, ["A cat.", "A dog."], ["A cat?"]).why_not == "claims/unpaired"
    assert with_claims(said, ["A cat."], ["Is <image> a cat?"]).why_not == "claims/image_tag"
    same = with_claims(said, ["A cat.", "One cat."], ["A cat?", "A cat?"])
    assert [(one.name, one.word) for one in same.mentions] == [("A cat?", "A cat.")] and same.kept


def scripted(prompt: str) -> str:
    """A model that splits, asks, and judges; of a horse it asks too little, and it can't split what names a bird."""
    if prompt.startswith("Below is a question"):
        answer = prompt.split("Answer: ")[1].split("\n")[0]
        named = re.findall(r"an? (cat|cup|dog|horse|bird)", answer)
        return "Sorry." if "bird" in named else "\n".join(f"- There is a {name}." for name in named)
    if prompt.startswith("Turn each"):
        names = [one for one in re.findall(r"^- There is a (\w+)\.$", prompt, re.M)]
        asked = [f"- Is there a {name} in the image?" for name in names]
        return "\n".join(asked[1:] if "horse" in names else asked)
    return "no" if re.search(r"\b(dog|horse|bird)\b", prompt) else "yes"


def settings(talker: Path, photos: Path, folder: Path, server: ChatServer, **changes: Any) -> CandidateSettings:
    chat = server.settings(retries=0).model_dump()
    values: dict[str, Any] = {
        "claims": "text",
        "writer": {"chat": chat},
        "evidence": [{"source": "judge", "chat": chat}],
        "pairs": {"maker": "best_worst", "guards": {"refuse_style": None, "polarity": None, "object_cap": None}},
        "samples": 6,
    }
    return world.settings(talker, photos, folder, **values | changes)


def test_from_photos_to_pairs_with_claims_in_words(talker: Path, photos: Path, tmp_path: Path) -> None:
    with ChatServer(scripted) as server:
        chosen = settings(talker, photos, tmp_path, server)
        # The server goes away in the middle: the build stops with one line, and nothing that was said is said again.
        server.fault = lambda prompt, attempt: "500" if prompt.startswith("Turn each") else None
        with pytest.raises(UserError, match="model that splits responses"):
            build(chosen, tmp_path / "build")
        said = {path: path.stat().st_mtime_ns for path in (tmp_path / "build" / "units").iterdir()}
        server.fault = lambda prompt, attempt: None
        result = build(chosen, tmp_path / "build")
        assert said and {path: path.stat().st_mtime_ns for path in said} == said
        splits = {key: n for key, n in server.answered.items() if str(key).startswith("Below is")}
        assert all(n == 1 for n in splits.values())
    table = result.counts["candidates"]
    assert table["in"] == sum(n for key, n in table.items() if key != "in") and table["kept"]
    pictures = list(CandidateTables(tmp_path / "build" / "candidates"))
    told = {one.text: one.why_not for picture in pictures for one in picture.candidates if one.why_not != "duplicate"}
    expected = {"bird": "claims/unread", "horse": "claims/unpaired"}
    for text in world.SAYS:
        assert told[text] == next((why for name, why in expected.items() if name in text), "")
    kept = [one for picture in pictures for one in picture.candidates if one.kept]
    assert {(len(one.absent), one.chair_i, one.recall_pool) for one in kept if one.text in world.SAYS} == {
        (0, 0.0, None),
        (1, 0.5, None),
    }
    assert result.counts["claims"]["absent"] and "probes" in result.counts and not result.counts["probes"].get("in")
    pairs = list(read_pairs(tmp_path / "build" / "pairs"))
    assert pairs and pairs[0].provenance is not None
    assert "Is there a dog in the image?" in [row["name"] for pair in pairs for row in pair.provenance["claims"]]
    # Of the same candidates: another maker that needs no classes, by one of the sources; one that needs them is named.
    later = {"builder": "pairs_from_candidates", "candidates": str(tmp_path / "build" / "candidates")}
    best = PairsFromCandidatesSettings.model_validate(
        later | {"pairs": {"maker": "best_worst", "official": "rlaif_v"}, "sources": ["judge"]}
    )
    assert run(best, tmp_path / "later", PairsFromCandidates).pairs_made
    edited = PairsFromCandidatesSettings.model_validate(later | {"pairs": "edited"})
    with pytest.raises(UserError, match="`edited` works with classes"):
        run(edited, tmp_path / "edited", PairsFromCandidates)


def test_the_model_itself_judges_by_its_wordings(talker: Path, photos: Path, tmp_path: Path) -> None:
    """Yes likelier than no affirms; a detector beside it abstains about everything."""
    with ChatServer(scripted) as server:
        one = {"source": "self", "claim_questions": ["{question}"]}
        chosen = settings(talker, photos, tmp_path, server, evidence=[one], pairs=None, limit=2, drawn=0)
        build(chosen, tmp_path / "build")
    found = {name: one for p in CandidateTables(tmp_path / "build" / "candidates") for name, one in p.opinions.items()}
    assert found["Is there a cat in the image?"].verdict == found["Is there a dog in the image?"].verdict == "present"
    assert found["Is there a cup in the image?"].verdict == "absent"
    assert all(one.by["self"].z is not None for one in found.values())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"writer": None}, "needs `writer`"),
        ({"claims": "objects"}, "has no `writer`"),
        ({"probe_absent": 3}, "probe_absent"),
        ({"controls": {"annotations": "a.jsonl"}}, "`controls` know classes"),
        ({"evidence": [{"source": "detector", "model": "d"}]}, "only `self` and `judge`"),
        ({"evidence": [{"source": "self"}, {"source": "detector", "model": "d"}]}, "agree.least"),
        ({"pairs": "edited"}, "works with classes"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], told: str) -> None:
    values = {
        "builder": "candidates",
        "model": "m",
        "images": "photos",
        "claims": "text",
        "writer": {"chat": {"backend": "local", "model": "writer"}},
        "evidence": [{"source": "self"}],
    }
    CandidateSettings.model_validate(values)
    with pytest.raises(ValueError, match=re.escape(told)):
        CandidateSettings.model_validate(json.loads(json.dumps(values | changes)))
