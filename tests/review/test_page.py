"""The page: who is let in, what it shows, and what becomes of a decision."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.reviews import read_reviews
from mmpo.errors import UserError
from mmpo.review.guard import LARGEST_BODY
from mmpo.review.serve import opened_session
from mmpo.review.session import ReviewSession
from tests.review.conftest import HOSTILE, write_pairs
from tests.review.pages import ADDRESS, PORT, TOKEN, client_of, decide, fields


def test_the_token_lets_in_and_leaves_the_address(session: ReviewSession) -> None:
    client = client_of(session, entered=False)
    assert client.get("/row/0").status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    assert client.get("/static/review.css").status_code == 403
    entered = client.get(f"/?token={TOKEN}")
    cookie = entered.headers["set-cookie"].lower()
    assert entered.status_code == 303 and entered.headers["location"] == "/"
    assert "httponly" in cookie and "samesite=strict" in cookie and f"mmpo-review-{PORT}" in cookie
    assert client.get("/row/0").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", ""])
def test_another_host_is_refused_even_with_the_cookie(session: ReviewSession, host: str) -> None:
    client = client_of(session)
    assert client.get("/row/0", headers={"host": host}).status_code == 403
    assert client.get(f"/?token={TOKEN}", headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", f"https://127.0.0.1:{PORT}", "http://127.0.0.1"]
)
def test_a_decision_of_another_page_is_refused(session: ReviewSession, origin: str | None) -> None:
    client = client_of(session)
    form = {**fields(client.get("/row/0").text), "verdict": "drop"}
    answer = client.post("/row/0", data=form, headers={"origin": origin} if origin else {})
    assert answer.status_code == 403 and not session.log.decisions
    assert client.post("/row/0", data=form, headers={"origin": ADDRESS}).status_code == 303


def test_no_other_method_no_large_body_no_cors(session: ReviewSession) -> None:
    client = client_of(session)
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.request(method, "/row/0", headers={"origin": ADDRESS}).status_code == 405
    large = client.post("/row/0", content=b"x" * (LARGEST_BODY + 1), headers={"origin": ADDRESS})
    assert large.status_code == 413
    chunked = client.post("/row/0", content=iter([b"x"]), headers={"origin": ADDRESS})
    assert chunked.status_code == 413  # its length is not said
    headers = client.get("/row/0").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize("path", ["/picture/0/9", "/picture/999/0", "/picture/0/../../etc/passwd", "/static/../app.py",
                                  "/static/page.html", "/row/999", "/row/-1", "/picture/0/-1"])  # fmt: skip
def test_pictures_and_files_come_by_number_and_by_list(session: ReviewSession, path: str) -> None:
    assert client_of(session).get(path).status_code == 404


def test_a_picture_is_drawn_anew(session: ReviewSession) -> None:
    answer = client_of(session).get("/picture/0/0")
    assert answer.headers["content-type"] == "image/jpeg" and answer.content.startswith(b"\xff\xd8")


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 1, chosen=HOSTILE)
    with opened_session(folder, reviewer="<b>ann") as session:
        client = client_of(session)
        decide(client, 0, "accept", note=HOSTILE)
        page = client.get("/row/0").text
    assert "<script>document" not in page and "<img src=x" not in page and "<b>ann" not in page
    assert "49" not in page.split("<main>")[1].split("</main>")[0]
    assert page.count("&lt;script&gt;") >= 3  # the card, the text to edit, the note


def test_worst_come_first_and_a_decision_leads_on(session: ReviewSession, pairs: Path) -> None:
    assert session.order[:2].tolist() == [0, 1]  # the judge against itself, then the smallest margin
    client = client_of(session)
    assert client.get("/").headers["location"] == "/row/0"
    assert "judge against itself" in client.get("/row/0").text
    assert decide(client, 0, "swap", note="the cat is real").headers["location"] == "/row/1"
    assert client.get("/").headers["location"] == "/row/1"
    (line,) = (pairs / "reviews.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["id"], row["verdict"], row["note"], row["reviewer"]) == ("pair-0", "swap", "the cat is real", "ann")
    assert row["digest"] == session.item(0).digest and row["time"]


def test_a_fragment_for_htmx_has_the_new_address(session: ReviewSession) -> None:
    client = client_of(session)
    form = {**fields(client.get("/row/0").text), "verdict": "accept"}
    answer = client.post("/row/0", data=form, headers={"origin": ADDRESS, "hx-request": "true"})
    assert answer.status_code == 200 and answer.headers["hx-push-url"] == "/row/1"
    assert answer.text.lstrip().startswith('<div id="review">')


def test_edits_and_spans_are_checked_against_the_text(session: ReviewSession) -> None:
    client = client_of(session)
    text = session.item(2).sides["rejected"]
    span = {"side": "rejected", "start": 2, "end": 5, "text": "cat"}
    assert text[2:5] == "cat"
    for bad in ({**span, "end": 6}, {**span, "side": "prompt"}, {**span, "start": "2"}, {"side": "chosen"}, 5):
        assert decide(client, 2, "drop", spans=json.dumps([bad])).status_code == 422
    assert decide(client, 2, "edit", chosen="A dog sits on a mat.").status_code == 422  # nothing edited
    assert decide(client, 2, "edit", chosen="  ").status_code == 422
    assert decide(client, 2, "edit", chosen=text).status_code == 422  # both the same
    assert decide(client, 2, "label_wrong").status_code == 422  # no verdict about a pair
    assert not session.log.decisions
    kept = decide(client, 2, "edit", chosen="A dog\r\nsits.", spans=json.dumps([span]))
    assert kept.status_code == 303
    decision = session.log.decisions["pair-2"]["ann"]
    assert decision.chosen == "A dog\nsits." and decision.rejected is None and decision.spans[0].text == "cat"


def test_two_tabs_on_one_pair_the_second_is_told(session: ReviewSession, pairs: Path) -> None:
    client = client_of(session)
    first, second = fields(client.get("/row/3").text), fields(client.get("/row/3").text)
    headers = {"origin": ADDRESS}
    edit = {"verdict": "edit", "chosen": "First."}
    assert client.post("/row/3", data={**first, **edit}, headers=headers).status_code == 303
    told = client.post("/row/3", data={**second, "verdict": "edit", "chosen": "Second."}, headers=headers)
    assert told.status_code == 409 and "another tab" in told.text
    assert "Second.</textarea>" in told.text  # what was typed is not lost
    assert [one.chosen for one in read_reviews(pairs / "reviews.jsonl")] == ["First."]
    again = {**fields(told.text), "verdict": "edit", "chosen": "Second."}
    assert client.post("/row/3", data=again, headers=headers).status_code == 303
    assert session.log.decisions["pair-3"]["ann"].chosen == "Second."


def test_a_decision_about_a_changed_pair_is_refused(session: ReviewSession) -> None:
    client = client_of(session)
    form = {**fields(client.get("/row/0").text), "verdict": "accept", "digest": "0" * 24}
    assert client.post("/row/0", data=form, headers={"origin": ADDRESS}).status_code == 409
    assert not session.log.decisions


def test_a_full_disk_keeps_nothing_and_says_so(
    session: ReviewSession, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(session)
    decide(client, 0, "accept")
    real = os.fsync

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("reviews.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    answer = decide(client, 1, "drop", note="typed with care")
    assert answer.status_code == 507 and "disk full" in answer.text and "typed with care" in answer.text
    assert session.progress().done == 1 and "pair-1" not in session.log.decisions
    monkeypatch.setattr(os, "fsync", real)
    assert decide(client, 1, "drop").status_code == 303
    assert [one.verdict for one in read_reviews(pairs / "reviews.jsonl")] == ["accept", "drop"]


def test_a_second_process_on_one_file_is_refused(session: ReviewSession, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in use"), opened_session(pairs, reviewer="ben"):
        pass
    with opened_session(pairs, reviewer="ben", file=tmp_path / "ben.jsonl") as other:
        assert len(other.order) == 6


def test_decisions_stay_and_the_queue_goes_on(pairs: Path) -> None:
    with opened_session(pairs, reviewer="ann") as session:
        decide(client_of(session), 0, "accept")
    with open(pairs / "reviews.jsonl", "a") as file:
        file.write('{"id": "half')  # killed while it wrote
    with opened_session(pairs, reviewer="ann") as session:
        assert session.next() == 1 and session.progress().done == 1
        assert "A new decision takes its place" in client_of(session).get("/row/0").text


def test_a_second_reviewer_sees_no_verdict_and_no_score(pairs: Path) -> None:
    with opened_session(pairs, reviewer="ann") as session:
        for row in (0, 1, 2):
            decide(client_of(session), row, "drop" if row else "accept", note="my opinion")
    with opened_session(pairs, reviewer="ben", kind="second") as session:
        assert sorted(session.order.tolist()) == [0, 1, 2]
        client = client_of(session)
        page = client.get("/row/0").text
        assert "my opinion" not in page and "reward" not in page and "judge" not in page
        for row in (0, 1):
            decide(client, row, "drop" if row else "accept")
            assert "kappa" not in client.get("/row/0").text  # it would tell how the first decided
        decide(client, 2, "accept")
        assert "kappa 0.40" in client.get("/row/0").text


def test_a_sample_gives_a_precision(pairs: Path) -> None:
    with opened_session(pairs, reviewer="ann", kind="sample", size=4) as session:
        client = client_of(session)
        assert len(session.order) == 4
        for number, row in enumerate(session.order.tolist()):
            decide(client, row, "accept" if number else "drop")
        assert "3 of 4 accepted, 30-95 %" in client.get(f"/row/{session.order[0]}").text


@pytest.mark.parametrize("row", [{}, [], {"id": 3}, {"id": "a", "digest": "b", "verdict": "burn", "reviewer": "c",
                                                     "time": "d"}])  # fmt: skip
def test_a_file_that_holds_no_decisions_is_named(pairs: Path, row: Any) -> None:
    (pairs / "reviews.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"reviews\.jsonl:1"), opened_session(pairs, reviewer="ann"):
        pass
