"""Sources and the face `Evidence`, with real tiny models, files and servers."""

from __future__ import annotations

import json
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpo.data.near_duplicates import difference_hash
from mmpo.errors import UserError
from mmpo.evidence.evidence import Evidence, SeenPicture, open_picture
from mmpo.evidence.kept import FindingStore
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.settings import EvidenceSettings
from mmpo.files.images import encode_image
from mmpo.models.generation.answer import AnswerEngine
from mmpo.text.vocabulary import ObjectVocabulary, coco
from tests.chat.server import ChatServer
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_detectors import save_tiny_owlvit, save_tiny_yolos

NAMES = ["cat", "dog"]


def settings(*sources: dict[str, Any], **more: Any) -> EvidenceSettings:
    return EvidenceSettings.model_validate({"evidence": list(sources), **more})


def pictures(n: int, first: int = 0) -> list[EvidencePicture]:
    """Noise of three sizes."""
    made = (tiny_image(first + number, (40 + 8 * (number % 3), 36)) for number in range(n))
    return [open_picture(encode_image(image), f"{first + number}.png")[0] for number, image in enumerate(made)]


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_yolos(tmp_path_factory.mktemp("yolos")))


@pytest.fixture(scope="module")
def owlvit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_owlvit(tmp_path_factory.mktemp("owlvit")))


@pytest.fixture
def stack() -> Any:
    with ExitStack() as opened:
        yield opened


# ---- detectors


def test_a_closed_set_abstains_about_what_it_does_not_know(yolos: str, tmp_path: Path, stack: ExitStack) -> None:
    """`teapot` is in the vocabulary and not among the detector's classes: neither seen nor missing."""
    vocabulary = ObjectVocabulary({"cat": ["kitten"], "dog": [], "cup": [], "chair": [], "teapot": []})
    evidence = Evidence.open(settings({"source": "detector", "model": yolos}), vocabulary, tmp_path, stack)
    found = evidence.find(pictures(2), [["teapot", "cat"]] * 2)
    assert found[0]["detector"]["teapot"] == SourceFinding(None, "unknown_class")
    verdicts = evidence.judged(found[0], evidence.cuts(found))
    assert verdicts["teapot"].verdict == "uncertain" and verdicts["teapot"].by["detector"].verdict is None
    assert verdicts["dog"].verdict == "present"  # nobody asked, but it is there
    assert verdicts["dog"].by["detector"].z == pytest.approx(
        max(box[4] for box in found[0]["detector"]["dog"].detail["boxes"]), abs=1e-4
    )


@pytest.mark.parametrize("kind", ["yolos", "owlvit"])
def test_numbers_do_not_depend_on_neighbours(kind: str, tmp_path: Path, request: Any) -> None:
    folder = request.getfixturevalue(kind)
    shown = pictures(7)
    numbers = []
    for run, (order, batch) in enumerate(((range(7), 8), (reversed(range(7)), 3), (range(7), 1))):
        with ExitStack() as stack:
            source = {"source": "detector", "model": folder, "batch_size": batch}
            evidence = Evidence.open(settings(source), coco(), tmp_path / str(run), stack)
            z: dict[tuple[str, str], float] = {}
            for place in order:
                for part in ([place],) if run == 1 else ([*range(7)],):
                    for number, found in zip(
                        part, evidence.find([shown[n] for n in part], [NAMES] * len(part)), strict=True
                    ):
                        z |= {(shown[number].key, name): one.z or 0.0 for name, one in found["detector"].items()}
            numbers.append(z)
    assert len(set(numbers[0].values())) > 3
    for other in numbers[1:]:
        assert other == pytest.approx(numbers[0], abs=1e-4)


def test_a_zero_shot_detector_is_asked_with_decoys_and_abstains_about_long_queries(
    owlvit: str, tmp_path: Path, stack: ExitStack
) -> None:
    long = "thing of which the name is far too long for sixteen tokens of any text"
    vocabulary = ObjectVocabulary.from_names(["cat", "dog", "cup", "chair", "bird", long])
    evidence = Evidence.open(settings({"source": "detector", "model": owlvit}), vocabulary, tmp_path, stack)
    found = evidence.find(pictures(3), [["cat", "dog", long]] * 3)
    for one in found:
        assert one["detector"][long] == SourceFinding(None, "query_cut_off")
        for name in NAMES:
            finding = one["detector"][name]
            assert finding.z is not None and 0 <= finding.z <= 1 and 0 <= finding.detail["decoy"] <= 1
            opinion = evidence.judged(one, evidence.cuts(found))[name].by["detector"]
            if finding.z <= finding.detail["decoy"]:
                assert opinion.verdict != "present"


def test_another_detector_in_the_same_folder_is_refused(yolos: str, tmp_path: Path) -> None:
    def find(folder: str, **changes: Any) -> None:
        with ExitStack() as stack:
            source = {"source": "detector", "model": folder, **changes}
            evidence = Evidence.open(settings(source), coco(), tmp_path / "run", stack)
            evidence.find(pictures(1), [NAMES])

    find(yolos)
    find(yolos, batch_size=2)  # speed alone
    other = save_tiny_yolos(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another source of evidence"):
        find(str(other))


def test_what_is_no_detector_is_refused_before_it_is_loaded(
    tiny_llava_folder: Path, tmp_path: Path, stack: ExitStack
) -> None:
    def problem(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            Evidence.open(settings({"source": "detector", "model": str(folder)}), coco(), tmp_path / "run", stack)
        return str(caught.value)

    assert "detects no objects" in problem(tiny_llava_folder)
    assert "no such model folder" in problem(tmp_path / "absent")
    bare = save_tiny_yolos(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in problem(bare)
    strange = save_tiny_yolos(tmp_path / "strange", classes=("wug", "blicket"))
    evidence = Evidence.open(settings({"source": "detector", "model": str(strange)}), coco(), tmp_path / "s", stack)
    with pytest.raises(UserError, match="none of the detector's classes"):
        evidence.find(pictures(1), [NAMES])


def test_a_picture_on_which_a_detector_fails_is_abstained_about(
    yolos: str, tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    good, broken = pictures(1)[0], EvidencePicture("0" * 32, b"no picture", "broken.png")
    evidence = Evidence.open(settings({"source": "detector", "model": yolos}), coco(), tmp_path, stack)
    found = evidence.find([good, broken], [["cat"], ["cat"]])
    assert found[1]["detector"]["cat"].why == "detector_failed" and "broken.png" in caplog.text
    assert found[0]["detector"]["cat"].z is not None
    fresh = Evidence.open(settings({"source": "detector", "model": yolos}), coco(), tmp_path / "fresh", stack)
    with pytest.raises(UserError, match="works on none of the first pictures"):
        fresh.find([broken], [["cat"]])


# ---- annotations


def test_annotations_abstain_where_they_say_nothing(tmp_path: Path, stack: ExitStack) -> None:
    shown = pictures(3)
    rows = [
        {"image": "0.png", "objects": ["kitten"], "captions": ["A cat beside a chair."]},
        {"image": "1.png", "objects": ["dog"]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def verdicts(**changes: Any) -> list[dict[str, tuple[float | None, str]]]:
        source = {"source": "annotations", "path": str(tmp_path / "a.jsonl"), **changes}
        evidence = Evidence.open(settings(source), coco(), tmp_path / str(len(changes)), stack)
        found = evidence.find(shown, [["cat", "dog", "chair", "pizza"]] * 3)
        return [{name: (one.z, one.why) for name, one in found_of["annotations"].items()} for found_of in found]

    partial, whole = verdicts(), verdicts(complete=True)
    assert partial[0] == {
        "cat": (1.0, ""), "chair": (1.0, ""), "dog": (None, "not_marked"), "pizza": (None, "outside_vocabulary"),
    }  # fmt: skip
    assert whole[0]["dog"] == (-1.0, "") and whole[0]["pizza"] == (None, "outside_vocabulary")
    assert set(whole[2].values()) == {(None, "not_annotated")}


# ---- self


def self_evidence(folder: Path, stack: ExitStack, engine: AnswerEngine | None, **changes: Any) -> Evidence:
    source = {"source": "self", "questions": ["Is there {article} {object} in the image?"], "negated": [], **changes}
    return Evidence.open(
        settings(source), coco(), folder, stack, engine=(lambda: engine) if engine else None, model="tiny"
    )


def test_own_answers_are_the_log_odds_of_single_questions(tmp_path: Path, stack: ExitStack) -> None:
    shown, engine = pictures(3), AnswerEngine(tiny_llava(), max_new_tokens=1)
    texts = {"questions": ["Is there {article} {object}?", "See {object}?"], "negated": ["No {object}?"]}
    evidence = self_evidence(tmp_path, stack, engine, **texts)
    found = evidence.find(shown, [["cat", "airplane"]] * 3)
    one = AnswerEngine(tiny_llava(), max_new_tokens=1, sharing="off")
    for picture, own in zip(shown, found, strict=True):
        for name, filled in (("airplane", "Is there an airplane?"), ("cat", "Is there a cat?")):
            asked = [filled, f"See {name}?", f"No {name}?"]
            answers = list(one.answer([(picture.data, asked)]))
            odds = [answer.yes_logit - answer.no_logit for answer in answers]  # type: ignore[operator]
            finding = own["self"][name]
            assert list(finding.detail["wordings"].values()) == pytest.approx(odds, abs=1e-4)
            assert finding.z == pytest.approx((odds[0] + odds[1]) / 2, abs=1e-4)
            assert list(evidence.sources["self"].parts(finding).values())[2] == pytest.approx(-odds[2], abs=1e-4)


def test_own_answers_without_a_model_are_refused(tmp_path: Path, stack: ExitStack) -> None:
    with pytest.raises(UserError, match="needs a model"):
        self_evidence(tmp_path, stack, None)


def controls(folder: Path, n: int) -> dict[str, str]:
    """Noise in which, as the annotation has it, every other picture shows a cat, the others a dog."""
    rows = []
    for number in range(n):
        tiny_image(1000 + number).save(folder / f"c{number}.png")
        rows.append({"image": f"c{number}.png", "objects": ["cat" if number % 2 else "dog"]})
    (folder / "controls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"annotations": str(folder / "controls.jsonl")}


class Scripted(AnswerEngine):
    """An engine whose yes and no are those of a script: what a model that knows, or one that parrots, would say."""

    def __init__(self, odds: Any) -> None:
        self.odds = odds

    def answer(self, asked: Any, **options: Any) -> Any:
        from mmpo.models.generation.answer import Answer

        for data, questions in asked:
            for question in questions:
                value = self.odds(data, question.text)
                yield Answer(question.id, "", (), False, 0.0, 0.5, value, 0.0)


def truth_of_controls(folder: Path, n: int) -> dict[bytes, str]:
    return {(folder / f"c{number}.png").read_bytes(): "cat" if number % 2 else "dog" for number in range(n)}


def test_a_parrot_is_off(tmp_path: Path, stack: ExitStack) -> None:
    """Yes to everything: no wording separates anything."""
    evidence = Evidence.open(
        settings({"source": "self"}, controls=controls(tmp_path, 40)), coco(), tmp_path / "run", stack,
        engine=lambda: Scripted(lambda data, text: 5.0), model="parrot",
    )  # fmt: skip
    fitted = evidence.calibrate([NAMES] * 40)
    assert fitted.by["self"].cuts.off == "too_weak" and fitted.by["self"].kept == ()
    assert all(value == 0.5 for _, value, _ in fitted.by["self"].parts)
    assert any("self is off" in warning for warning in fitted.warnings)
    found = evidence.find(pictures(1), [NAMES])
    verdict = evidence.judged(found[0], evidence.cuts(found))["cat"]
    assert verdict.verdict == "uncertain" and verdict.by["self"].why == "too_weak"


def test_a_wording_whose_negation_is_not_read_is_dropped(tmp_path: Path, stack: ExitStack) -> None:
    """The model knows, but reads `there is no cat` as `there is a cat`."""
    here = controls(tmp_path, 80)
    there = truth_of_controls(tmp_path, 80)

    def odds(data: bytes, text: str) -> float:
        noise = (zlib.crc32(data) % 100) / 100
        return (2.0 if there.get(data, "cat") in text else -2.0) + noise + 3.0

    evidence = Evidence.open(
        settings({"source": "self"}, controls=here), coco(), tmp_path / "run", stack,
        engine=lambda: Scripted(odds), model="knows",
    )  # fmt: skip
    fitted = evidence.calibrate([NAMES] * 80)
    own = fitted.by["self"]
    assert own.kept == tuple(evidence.settings.evidence[0].questions) and len(own.parts) == 4
    assert own.parts[3][1] == 0.0 and any("is left out" in warning for warning in fitted.warnings)
    assert own.calibration is not None and own.calibration.auroc == 1.0 and own.calibration.claims == 160
    found = evidence.find(pictures(1), [NAMES])  # raw, all of its answers are yes
    verdicts = evidence.judged(found[0], evidence.cuts(found))
    assert {name: one.verdict for name, one in verdicts.items()} == {"cat": "present", "dog": "absent"}
    assert verdicts["dog"].confidence is not None and verdicts["dog"].confidence > 0.9
    written = json.loads((tmp_path / "run" / "controls.json").read_text())
    assert written["calibrated"] and written["sources"]["self"]["kept"] == list(own.kept)


def test_controls_among_the_pictures_are_refused(tmp_path: Path, stack: ExitStack) -> None:
    here = controls(tmp_path, 4)
    evidence = Evidence.open(
        settings({"source": "self"}, controls=here), coco(), tmp_path / "run", stack,
        engine=lambda: Scripted(lambda data, text: 0.0), model="m",
    )  # fmt: skip

    def seen(image: Image.Image, path: str) -> SeenPicture:
        return SeenPicture(open_picture(encode_image(image), path)[0].key, difference_hash(image), path)

    evidence.refuse_shared([seen(tiny_image(5), "own.png")])
    copy = Image.open(tmp_path / "c1.png").convert("RGB")
    with pytest.raises(UserError, match=r"copy.png \(control c1.png: the same pixels\)"):
        evidence.refuse_shared([seen(tiny_image(5), "own.png"), seen(copy, "copy.png")])
    with pytest.raises(UserError, match=r"a near-duplicate, \d of 256 bits differ"):
        evidence.refuse_shared([seen(copy.resize((80, 72), Image.Resampling.BICUBIC), "larger.png")])
    with pytest.raises(RuntimeError, match="calibrate before"):
        evidence.cuts([])


# ---- judge


def test_a_judge_says_yes_no_and_unsure_and_abstains_otherwise(tmp_path: Path, stack: ExitStack) -> None:
    says = {"a cat": "Yes.", "a dog": "no", "a cup": "**Unsure**", "a chair": "It may be yes or no.", "a bird": "Blue!"}
    faults = {"a horse": "length", "a sheep": "400", "a cow": "429", "a bear": "hang", "a zebra": "empty"}

    def fault(prompt: str, attempt: int) -> str | None:
        return next((kind for words, kind in faults.items() if words in prompt), None)

    def answer(prompt: str) -> str:
        return next((said for words, said in says.items() if words in prompt), "yes")

    with ChatServer(answer=answer, fault=fault) as server:
        chat = server.settings(retries=1, timeout=0.5, longest_wait=0.05).model_dump()
        evidence = Evidence.open(settings({"source": "judge", "chat": chat}), coco(), tmp_path, stack)
        names = [words.split()[1] for words in (*says, *faults)]
        found = evidence.find(pictures(1), [names])[0]["judge"]
        asked = len(server.requests)
        again = evidence.find(pictures(1), [names])[0]["judge"]
        assert again == found and len(server.requests) == asked
        content = server.requests[0]["messages"][-1]["content"]
    assert [part["type"] for part in content].count("image_url") == 1
    assert [found[name].z for name in ("cat", "dog", "cup")] == [1.0, -1.0, 0.0]
    whys = {name: found[name].why for name in names[3:]}
    assert (whys["chair"], whys["bird"], whys["horse"]) == ("judge/unread", "judge/unread", "judge/cut_off")
    assert all(whys[name].startswith("judge/") and found[name].z is None for name in ("sheep", "cow", "bear", "zebra"))
    verdicts = evidence.judged({"judge": found}, evidence.cuts([{"judge": found}]))
    counts = [one.by["judge"].verdict for one in verdicts.values()]
    assert len(counts) == len(names) == sum(counts.count(kind) for kind in ("present", "absent", "uncertain", None))
    assert verdicts["cup"].verdict == verdicts["cow"].verdict == "uncertain" and verdicts["cat"].verdict == "present"


# ---- kept findings


def test_killed_in_the_middle_the_bytes_are_the_same(
    yolos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends after any block, and one that leaves half a line, continue to the same bytes."""
    add, shown = FindingStore.add, pictures(40)

    def run(folder: Path, blocks: int) -> bytes:
        left = [blocks]

        def until(store: FindingStore, block: Any) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            add(store, block)

        monkeypatch.setattr(FindingStore, "add", until)
        with ExitStack() as stack, suppress(KeyboardInterrupt):
            source = settings({"source": "detector", "model": yolos})
            Evidence.open(source, coco(), folder, stack).find(shown, [NAMES] * 40)
        return (folder / "detector" / "findings.jsonl").read_bytes()

    whole = run(tmp_path / "whole", 99)
    assert whole.count(b"\n") == 3
    for blocks in (0, 1, 2):
        folder = tmp_path / str(blocks)
        killed = run(folder, blocks)
        assert whole.startswith(killed) and killed.count(b"\n") == blocks
        (folder / "detector" / "findings.jsonl").write_bytes(whole[: len(killed) + 100])  # and half of the next line
        assert run(folder, 99) == whole


def test_a_damaged_line_costs_that_line(tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    store = FindingStore(tmp_path, "x", stack)
    store.add({"a": {"cat": SourceFinding(0.1 + 0.2, "", {"boxes": [[1, 2, 3, 4, 0.3]]})}, "b": {}})
    store.add({"a": {"dog": SourceFinding(None, "unknown_class")}})
    assert store.get("a")["cat"] == SourceFinding(0.1 + 0.2, "", {"boxes": [[1, 2, 3, 4, 0.3]]})
    assert store.get("a")["dog"].why == "unknown_class" and store.get("b") == {}
    file = tmp_path / "findings.jsonl"
    file.write_bytes(file.read_bytes().replace(b"0.3]", b"0.9]", 1))
    again = FindingStore(tmp_path, "x", stack)
    assert list(again.get("a")) == ["dog"] and "1 damaged lines" in caplog.text
    with pytest.raises(UserError, match="another source of evidence"):
        FindingStore(tmp_path, "y", stack)
