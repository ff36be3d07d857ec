"""LLaVA-Hound, VLFeedback, BPO, OPA-DPO, ms-swift's and LLaMA-Factory's other forms, SENTINEL by file name."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.convert import convert, detect
from mmpo.data.pair import PreferencePair
from mmpo.errors import UserError
from tests.data.convert.sources import (
    converted,
    parts,
    rejects,
    write_json,
    write_lines,
    write_parquet,
    write_pictures,
)  # fmt: skip
from tests.data.making import picture

SIDES = {"chosen": "A dog.", "rejected": "A cat."}


def both(pair: PreferencePair) -> tuple[str, str]:
    return pair.chosen_text, pair.rejected_text


# LLaVA-Hound


def hound(**changes: Any) -> dict[str, Any]:
    return {"id": "v_1_0", "prompt": "<video>\nWhat happens?", "answer": "A dog runs.", **SIDES, "chosen_score": 5,
            "rejected_score": 2, **changes}  # fmt: skip


def test_llava_hound_files_and_folders_of_frames(tmp_path: Path) -> None:
    media = write_pictures(tmp_path / "media", "i/a.png", *(f"f/v1/c01_{k:04d}.jpeg" for k in range(1, 21)))
    (media / "f" / "v2.mp4").write_bytes(b"not decoded here")
    (media / "f" / "v4").mkdir()
    rows = [
        hound(video="f/v1"), hound(video="f/v1.mp4"), hound(video="f/v2.mp4"), hound(video="f/v2", prompt="What?"),
        {"id": "i", "image_path": "i/a.png", "prompt": "<image>\nWhat?", **SIDES},
        hound(video="f/v3"), hound(video="f/v4"), hound(video="../f/v1"), hound(video=None),
        hound(video="f/v1", video2="x.mp4"),
    ]  # fmt: skip
    pairs, result = converted(write_lines(tmp_path / "sft_dpo_17k.jsonl", rows), tmp_path / "out", images=media)
    assert result.source_format == "llava-hound" and result.without_media == 0
    assert result.quarantined == {
        "decode/missing": 1, "convert/empty_video": 1, "decode/path_escape": 1, "convert/video_count": 1,
        "convert/unread_media": 1,
    }  # fmt: skip
    for pair in pairs[:2]:
        video = pair.videos[0]  # type: ignore[index]
        # linspace(0, 19, 8) cut to whole numbers, at 2 frames a second
        assert video["times"] == [0.0, 1.0, 2.5, 4.0, 5.0, 6.5, 8.0, 9.5]
        assert video["frames"] == [picture(k) for k in (1, 3, 6, 9, 11, 14, 17, 20)]
        assert parts(pair) == ["<video>", "What happens?"]
    for pair in pairs[2:4]:
        assert (tmp_path / "out" / pair.videos[0]["path"]).read_bytes() == b"not decoded here"  # type: ignore[index]
    assert parts(pairs[3]) == ["<video>", "What?"] and parts(pairs[4]) == ["<image>", "What?"]
    assert (pairs[0].provenance["chosen_score"], pairs[0].provenance["rejected_score"]) == (5, 2)
    few, _ = converted(tmp_path / "sft_dpo_17k.jsonl", tmp_path / "few", images=media,
                       options={"frames": 2, "frames_per_second": 1})  # fmt: skip
    assert few[0].videos[0]["times"] == [0.0, 19.0]  # type: ignore[index]


# VLFeedback and BPO


def rated(response: str, helpful: str, faithful: str, ethical: str = "5") -> dict[str, Any]:
    ratings = {"Helpfulness": helpful, "Visual Faithfulness": faithful, "Ethical Considerations": ethical}
    return {"model": f"m-{response}", "response": response,
            "annotations": {name: {"Rating": value, "Rationale": "…"} for name, value in ratings.items()}}  # fmt: skip


ANSWERS = [rated("plain", "3", "4"), rated("kind", "5", "1"), rated("true", "2", "5"), rated("odd", "N/A", "3")]


@pytest.mark.parametrize(
    ("aspect", "best", "worst"),
    [(None, "plain", "kind"), ("helpfulness", "kind", "true"), ("Visual Faithfulness", "true", "kind"),
     ("visual-faithfulness", "true", "kind")],
)  # fmt: skip
@pytest.mark.parametrize("columns", [False, True])
def test_vlfeedback_best_against_worst(
    tmp_path: Path, aspect: str | None, best: str, worst: str, columns: bool
) -> None:
    write_pictures(tmp_path, "a.png")
    answers: Any = ANSWERS
    if columns:  # as `datasets` keeps a sequence of objects
        answers = {key: [answer[key] for answer in ANSWERS] for key in ANSWERS[0]}
    row = {"id": "q1", "prompt": "What is this?", "models": ["m"], "img_path": "a.png", "completions": answers}
    tie = row | {"id": "q2", "completions": [rated("a", "3", "3"), rated("b", "3", "3")]}
    bare = row | {"id": "q3", "completions": [rated("a", "3", "3"), rated("b", "N/A", "N/A", "N/A")]}
    options = {} if aspect is None else {"aspect": aspect}
    pairs, result = converted(write_lines(tmp_path / "x.jsonl", [row, tie, bare]), tmp_path / "out", options=options)
    assert result.source_format == "vlfeedback" and result.quarantined["convert/no_preference"] == 1
    assert result.quarantined["convert/unrated"] == 1 and len(pairs) == 1
    assert (both(pairs[0]), pairs[0].images) == ((best, worst), [picture(0)])
    assert pairs[0].provenance["chosen_from"] == f"m-{best}"


def test_vlfeedback_all_pairs_and_unknown_aspects(tmp_path: Path) -> None:
    row = {"id": "q", "prompt": "What?", "image": {"bytes": picture(1), "path": None}, "completions": ANSWERS}
    file = write_parquet(tmp_path / "train.parquet", [row])
    pairs, _ = converted(file, tmp_path / "out", options={"pairs": "all"})
    # means 4, 11/3 and 4; the fourth has no number for one aspect
    assert {both(pair) for pair in pairs} == {("plain", "kind"), ("true", "kind")}
    with pytest.raises(UserError, match=r"aspect.*'beauty'.*visual_faithfulness"):
        convert(file, tmp_path / "x", options={"aspect": "beauty"})


def test_bpo(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", "coco/train2017/000000000009.jpg")
    answers = [{"score": 1, "response": "A dog.", "type": "gt"}, {"score": 0, "response": "A cat.", "type": "weak"},
               {"score": 0, "response": "A cow.", "type": "injected"}]  # fmt: skip
    row = {"id": "9", "prompt": "What do you see?\n<image>", "image": "coco/train2017/000000000009.jpg"}
    rows = [row | {"completions": answers}, row | {"completions": answers[:1]}, row | {"completions": answers[1:]},
            row | {"completions": [answers[0], answers[1] | {"score": "bad"}]}]  # fmt: skip
    pairs, result = converted(write_json(tmp_path / "bpo.json", rows), tmp_path / "out", images=images)
    assert result.source_format == "bpo" and [both(p) for p in pairs] == [("A dog.", "A cat."), ("A dog.", "A cow.")]
    assert [pair.id for pair in pairs] == ["9-0", "9-1"] and parts(pairs[0]) == ["What do you see?", "<image>"]
    assert result.quarantined == {
        "convert/no_rejected": 1, "convert/no_preference": 1, "convert/bad_type": 1,
    }  # fmt: skip
    one, _ = converted(tmp_path / "bpo.json", tmp_path / "one", images=images, options={"pairs": "best_worst"})
    assert [both(pair) for pair in one] == [("A dog.", "A cat.")]


# OPA-DPO


def test_opa_dpo(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    report = {
        "image description": "A room.",
        "sentence 1": {"copied content": "A cat sits.", "rewritten content": "A dog sits.", "score": 1,
                       "error type": "image_recognition_error"},
        "sentence 2": {"copied_content": "It is red.", "rewritten_content": "It is brown.", "score": 3,
                       "error_type": "language_comprehension_error"},
        "Added": {"rewritten content": "It looks left."},
    }  # fmt: skip
    row = {
        "queries": "<image>\nDescribe it.", "image_bytes": base64.b64encode(picture(4)).decode(),
        "standard_response": "A brown dog.", "original_generate_response": "A cat sits. It is red.",
        "AI_pseudo_response": "A dog sits. It is brown. It looks left.", "AI_json_report": json.dumps(report),
    }  # fmt: skip
    rows = [row, row | {"AI_json_report": "{"}, row | {"image_bytes": ""}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "opadpo"))
    pairs, result = converted(tmp_path / "opadpo", tmp_path / "out")
    assert result.source_format == "opa-dpo" and (result.kept, result.pairs) == (2, 4)
    assert result.quarantined == {"convert/image_count": 1}
    truth, revised, _, plain = pairs
    assert both(truth) == ("A brown dog.", "A cat sits. It is red.") and truth.chosen_weights is None
    assert truth.images == [picture(4)] and parts(truth) == ["<image>", "Describe it."]
    assert revised.chosen_weights == [{"start": 0, "end": 11, "weight": 2.5}, {"start": 12, "end": 24, "weight": 1.5}]
    assert revised.rejected_weights == [{"start": 0, "end": 11, "weight": 2.5}, {"start": 12, "end": 22, "weight": 1.5}]
    assert revised.image_weights == [{"start": 0, "end": 11, "weight": 3.0}]
    assert plain.chosen_weights is None and plain.chosen_text == revised.chosen_text
    one, _ = converted(tmp_path / "opadpo", tmp_path / "one", options={"pairs": "ground_truth"})
    assert [both(pair)[0] for pair in one] == ["A brown dog."] * 2


# ms-swift


ASK = [{"role": "user", "content": "<image>What is this?"}]
OTHER_ASK = [{"role": "user", "content": "y"}]


@pytest.mark.parametrize(
    "rejected",
    ["A cat.", [{"role": "assistant", "content": "A cat."}], {"role": "assistant", "content": "A cat."},
     [*ASK, {"role": "assistant", "content": "A cat."}]],
)  # fmt: skip
def test_swift_rejected_responses(tmp_path: Path, rejected: Any) -> None:
    write_pictures(tmp_path, "a.png")
    row = {"messages": [*ASK, {"role": "assistant", "content": "A dog."}], "images": ["a.png"]}
    pairs, result = converted(
        write_lines(tmp_path / "x.jsonl", [row | {"rejected_response": rejected}]), tmp_path / "o"
    )
    assert result.source_format == "ms-swift" and both(pairs[0]) == ("A dog.", "A cat.")


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"rejected_response": []}, "no_rejected"), ({"rejected_response": 3}, "bad_type"),
     ({"rejected_response": [{"role": "user", "content": "x"}]}, "prompts_differ"),
     ({"rejected_response": [*OTHER_ASK, {"role": "assistant", "content": "x"}]}, "prompts_differ"),
     ({"rejected_response": None}, "no_rejected"), ({"rejected_videos": ["b.mp4"]}, "unread_media")],
)  # fmt: skip
def test_swift_rows_that_are_quarantined(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write_pictures(tmp_path, "a.png")
    row = {
        "messages": [*ASK, {"role": "assistant", "content": "A dog."}],
        "images": ["a.png"],
        "rejected_response": "B",
    }
    result = convert(write_lines(tmp_path / "x.jsonl", [row | change]), tmp_path / "o", source_format="ms-swift")
    assert result.quarantined == {f"convert/{reason}": 1}


def test_swift_s_older_names(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.png")
    row = {"system": "Be brief.", "history": [["Hi", "Hello"]], "query": "<image>What?", "response": "A dog.",
           "rejected_response": "A cat.", "images": ["a.png"]}  # fmt: skip
    pairs, result = converted(write_json(tmp_path / "x.json", [row]), tmp_path / "o")
    assert result.source_format == "ms-swift" and both(pairs[0]) == ("A dog.", "A cat.")
    assert [message["role"] for message in pairs[0].prompt] == ["system", "user", "assistant", "user"]


# LLaMA-Factory


def test_a_whole_llamafactory_folder(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", "pics/a.png", "pics/b.png")
    write_json(data / "sft.json", [{"instruction": "What?", "output": "A dog."}])
    write_json(data / "kto.json", [{"messages": [{"role": "user", "content": "?"}], "label": True}])
    write_json(data / "unregistered.json", [{"prompt": "What?", "response": "x"}])
    write_json(data / "words.json", {"a": 1})
    write_json(data / "mapped.json", [{"q": "<image>What?", "good": "A dog.", "bad": "A cat.", "shot": "pics/a.png"}])
    write_json(data / "talk.json", [
        {"dialog": [{"role": "human", "text": "What?"}], "better": {"role": "bot", "text": "A dog."},
         "worse": {"role": "bot", "text": "A cat."}, "pics": ["pics/b.png"], "sys": "Be brief."},
    ])  # fmt: skip
    write_lines(data / "alpaca.jsonl", [
        {"instruction": "What?", "input": "Be brief.", "history": [["Hi", "Hello"]], **SIDES}, {"instruction": "?"},
    ])  # fmt: skip
    write_json(data / "dataset_info.json", {
        "sft": {"file_name": "sft.json"},
        "kto": {"file_name": "kto.json", "formatting": "sharegpt", "columns": {"messages": "messages"}},
        "hub": {"hf_hub_url": "a/b", "ranking": True},
        "alpaca": {"file_name": "alpaca.jsonl", "ranking": True,
                   "columns": {"prompt": "instruction", "query": "input", "history": "history"}},
        "mapped": {"file_name": "mapped.json", "ranking": True,
                   "columns": {"prompt": "q", "chosen": "good", "rejected": "bad", "images": "shot"}},
        "talk": {"file_name": "talk.json", "ranking": True, "formatting": "sharegpt",
                 "columns": {"messages": "dialog", "chosen": "better", "rejected": "worse", "images": "pics",
                             "system": "sys"},
                 "tags": {"role_tag": "role", "content_tag": "text", "assistant_tag": "bot"}},
    })  # fmt: skip
    pairs, result = converted(data, tmp_path / "out")
    assert result.source_format == "llamafactory" and result.without_media == 1
    assert set(result.skipped) == {"sft.json", "kto.json", "unregistered.json", "words.json"}
    assert "ranking" in result.skipped["sft.json"] and "no rejected answer" in result.skipped["unregistered.json"]
    assert result.quarantined == {"convert/no_rejected": 1}
    alpaca, mapped, talk = pairs
    assert [both(pair) for pair in pairs] == [("A dog.", "A cat.")] * 3
    assert parts(alpaca) == ["Hi", "Hello", "What?\nBe brief."]
    assert mapped.images == [picture(0)] and parts(mapped) == ["<image>", "What?"]
    assert talk.images == [picture(1)] and [message["role"] for message in talk.prompt] == ["system", "user"]
    alone, result = converted(data / "mapped.json", tmp_path / "alone")
    assert result.source_format == "llamafactory" and alone[0].images == [picture(0)]
    assert "sft.json" in (tmp_path / "out" / "README.md").read_text(), "the card lists what was not read"


def test_alpaca_ranking_without_a_registry(tmp_path: Path) -> None:
    pairs, result = converted(write_json(tmp_path / "x.json", [{"instruction": "What?", **SIDES}]), tmp_path / "out")
    assert result.source_format == "llamafactory" and both(pairs[0]) == ("A dog.", "A cat.")


# SENTINEL


def test_sentinel_by_file_name(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", "VG_100K/7.jpg", "COCO_train2014_000000000009.jpg", "sub/dog.png")
    row = {"question": "Describe it.", "context": "", "y_win": "A dog.", "y_lose": "A cat.", "type": "y+"}
    names = ("7.jpg", "COCO_train2014_000000000009.jpg", "sub/dog.png", "8.jpg", "gone.png", "../x.png")
    pairs, result = converted(write_json(tmp_path / "x.json", {name: [row] for name in names}), tmp_path / "out",
                              images=images)  # fmt: skip
    assert result.source_format == "sentinel" and [pair.images[0] for pair in pairs] == [picture(k) for k in range(3)]
    assert result.quarantined == {"decode/missing": 2, "decode/path_escape": 1}


# Without a rejected answer


QUESTIONS: dict[str, Any] = {
    "POPE": {"question_id": 1, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a dog?", "label": "yes"},
    "AMBER's queries": {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
    "AMBER's annotations": {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
    "answers": {"question_id": "a.png", "prompt": "Is there a dog?", "text": "Yes", "model_id": "m", "metadata": {}},
    "HallusionBench": {"category": "VD", "question": "Is it?", "gt_answer": "1", "visual_input": "0", "set_id": "0"},
    "MMHal": {"question_type": "a", "image_id": "1", "image_src": "http://x", "question": "?", "gt_answer": "b"},
    "captions": {"image_id": 1, "caption": "A dog."},
    "instruction data": {"instruction": "What?", "input": "", "output": "A dog."},
    "one answer": {"prompt": "What?", "image": "a.png", "chosen": "A dog."},
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_question_sets_have_no_rejected_answer(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "in" / "questions.jsonl", [QUESTIONS[name]] * 3)
    for source in (tmp_path / "in" / "questions.jsonl", tmp_path / "in"):
        with pytest.raises(UserError, match="no rejected answer"):
            convert(source, tmp_path / "out")
    for format in ("rlhf-v", "trl", "rlaif-v"):
        result = convert(tmp_path / "in" / "questions.jsonl", tmp_path / format, source_format=format)
        assert (result.kept, result.quarantined) == (0, {"convert/no_rejected": 3})
        assert "no rejected answer" in rejects(tmp_path / format)[0]["detail"]


def test_tables_of_text_have_no_rejected_answer(tmp_path: Path) -> None:
    (tmp_path / "existence.txt").write_text("a.jpg\tIs there a dog?\tYes\n")
    with pytest.raises(UserError, match="no rejected answer"):
        convert(tmp_path / "existence.txt", tmp_path / "out")


@pytest.mark.parametrize(
    "file",
    ["RUCAIBox_POPE/output/coco/coco_pope_random.json", "YanNeu_RePOPE/annotations/coco_repope_random.json",
     "RLHF-V_RLHF-V/eval/data/mmhal-bench_answer_template.json", "junyangwang0410_AMBER",
     "haotian-liu_LLaVA/playground/data/eval/MME/answers/llava-v1.5-13b.jsonl", "tianyi-lab_HallusionBench",
     "BradyFU_MME/eval_tool/LaVIN/existence.txt"],
)  # fmt: skip
def test_published_question_sets(tmp_path: Path, published_data: Path, file: str) -> None:
    with pytest.raises(UserError, match=r"no rejected answer|no preference data"):
        convert(published_data / file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_detection_keeps_the_old_names(tmp_path: Path) -> None:
    row = {"image": "a.png", "text": json.dumps({"question": "?", **SIDES})}
    assert detect(write_json(tmp_path / "v.json", [row])) == "rlhf-v"
    assert detect(write_json(tmp_path / "h.json", [{"image_id": "1", "question": "?", "answer": "yes", "chosen": "Yes",
                                                   "reject": "No"}])) == "hadpo"  # fmt: skip
