"""Small valid files of every kind that mmpo reads from outside, who reads them, and how they are spoilt."""

from __future__ import annotations

import base64
import copy
import io
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mmpo.chat.judging import read_correctness, read_rating, read_same
from mmpo.cli.judge_option import judge_settings
from mmpo.data.annotations.read import read_annotations, read_coco_folder
from mmpo.data.card import read_card
from mmpo.data.convert import convert
from mmpo.data.pair import text_message
from mmpo.data.reader import PairDataset, read_pairs
from mmpo.data.shards import PairWriter
from mmpo.data.video_lists import read_videos
from mmpo.data_builders.mia import plan as mia_plan
from mmpo.eval.amber import files as amber_files
from mmpo.eval.chair import metrics as chair
from mmpo.eval.hallusionbench import files as hallusionbench
from mmpo.eval.mme import files as mme_files
from mmpo.eval.mmhal import metrics as mmhal
from mmpo.eval.multi_image import metrics as multi_image
from mmpo.eval.multiple_choice import metrics as multiple_choice
from mmpo.eval.object_halbench import metrics as object_halbench
from mmpo.eval.object_halbench.judge import read_objects
from mmpo.eval.pope import files as pope_files
from mmpo.eval.shr import files as shr_data
from mmpo.eval.temporal import metrics as temporal
from mmpo.eval.video_qa import metrics as video_qa
from mmpo.radiology.judge import read_items
from mmpo.radiology.lexicon import load_lexicon
from mmpo.radiology.reports import read_reports
from mmpo.recipes import load
from mmpo.text.synonyms import read_lexicon
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data.making import make_pair, picture

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, a valid value, and the reader. `beside` are further files, which stay as they are."""

    name: str
    file: str
    value: Any
    read: Callable[[Path], Any]
    beside: dict[str, Any] | None = None


def encoded(file: str, value: Any) -> bytes:
    """A value as the file that its name asks for."""
    if isinstance(value, (bytes, str)):
        return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    if file.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(value), sink)
        return sink.getvalue()
    if file.endswith((".yaml", ".yml")):
        return str(yaml.safe_dump(value)).encode("utf-8", "surrogatepass")
    if file.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in value).encode()
    return json.dumps(value).encode()


def _all(items: Iterable[Any]) -> None:
    for _ in items:
        pass


def _annotations(path: Path) -> None:
    for image in read_annotations(path):
        json.dumps([image.id, image.path, image.object_names, [item.attributes for item in image.objects]])
        str(image.id).encode()


def _converted(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> None:
        out = path.parent / "out"
        convert(path, out, source_format=name, images=path.parent, overwrite=True)
        _all(read_pairs(out))

    return read


def _images(*names: str) -> dict[str, Any]:
    return {name: picture(number) for number, name in enumerate(names)}


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}, {"id": 2, "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "iscrowd": 0, "attributes": {"color": "red"}},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0.5, 0, 4, 4], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
VG = [{"image_id": 1, "url": "https://x/VG_100K/1.jpg", "width": 9, "height": 9}]
VG_OBJECTS = [
    {"image_id": 1, "objects": [{"object_id": 4, "x": 0, "y": 0, "w": 3, "h": 3, "names": ["cow"], "synsets": []}]}
]
VG_WHOLE = [
    {
        "image_id": "5",
        "image": VG[0],
        "objects": VG_OBJECTS[0],
        "regions": {"regions": [{"phrase": "a cow", "x": 0, "y": 0, "width": 2, "height": 2}]},
    }
]
ROWS = [
    {
        "image": "a.png",
        "id": "a",
        "objects": ["dog", {"name": "cat", "bbox": [0, 0, 1, 1], "attributes": {"n": 1}}],
        "captions": ["a cat"],
        "regions": [{"phrase": "a dog", "bbox": [0, 0, 1, 1]}],
        "width": 8,
        "height": 8,
    }
]
CHOSEN, REJECTED = "A red cat.", "A blue dog."
TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
WORSE = [TURNS[0], {"from": "gpt", "value": "A dog."}]
POPE = [
    {"question_id": n, "image": "a.jpg", "text": f"Is there a {w} in the image?", "label": "yes"}
    for n, w in enumerate(("cat", "dog"), start=1)
]
MMHAL = [
    {
        "question_type": "attribute",
        "question_topic": "animal",
        "image_id": "a1",
        "image_src": "https://x/a.jpg",
        "image_content": ["Cat"],
        "question": "What?",
        "gt_answer": "A cat",
        "model_answer": "A dog",
    }
]
HALLUSION = [
    {
        "category": "VD",
        "subcategory": "chart",
        "visual_input": "1",
        "set_id": "0",
        "figure_id": "1",
        "sample_note": "n",
        "question_id": "0",
        "question": "Is it?",
        "gt_answer_details": "yes",
        "gt_answer": "1",
        "filename": "./a.png",
    }
]
AMBER_TABLE = {"relation.json": {"cat": ["kitten"], "dog": []}, "safe_words.txt": "thing\n"}
AMBER = [
    {"id": 1, "type": "generative", "truth": ["cat"], "hallu": ["dog"]},
    {"id": 2, "type": "discriminative-attribute-state", "truth": "yes"},
]
COMPASS = {
    "1.mp4": {"action": [{"question": "What?\nA. run\nB. sit", "answer": "A. run", "prediction": "A", "rating": 1}]}
}
HALLUCER = [
    {
        "basic": {"video": "1.mp4", "question": "Is it?", "answer": "yes", "predict": "Yes."},
        "hallucination": {"video": "1.mp4", "question": "Is it?", "answer": "no", "predict": "No."},
        "type": "x",
    }
]
SHR = [VG_WHOLE[0] | {"image": {"width": 9, "height": 9}}]
RECIPE = {
    "description": "mine",
    "model": "m",
    "seed": 1,
    "build": {"builder": "hallucination_pairs", "annotations": "a.json", "images": "."},
    "train": {"pairs": "p", "max_steps": 3, "objective": {"dpo": {"beta": 0.1}}},
}
MESSAGES = {
    "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
    "chosen": [text_message("assistant", CHOSEN)],
    "rejected": [text_message("assistant", REJECTED)],
}

PLAIN = [{"id": "1", "image": "a.png", "question": "What?", "chosen": CHOSEN, "rejected": REJECTED}]
SOURCES: dict[str, tuple[str, Any]] = {
    "rlaif-v": (
        "rows.parquet",
        [{**PLAIN[0], "image": {"bytes": picture(0), "path": "a.png"}, "ds_name": "d", "idx": 1}],
    ),
    "rlhf-v": ("rows.json", [{"image": "a.png", "idx": 1, "text": json.dumps(PLAIN[0])}]),
    "llava": ("llava.json", [{"id": "1", "image": "a.png", "conversations": TURNS, "rejected_conversations": WORSE}]),
    "povid": ("povid.json", [{"id": "1", "image": "a.png", "conversations": TURNS, "rejected_conversations": WORSE}]),
    "llamafactory": (
        "lf.jsonl",
        [
            {
                "conversations": TURNS[:1],
                "chosen": {"from": "gpt", "value": CHOSEN},
                "rejected": {"from": "gpt", "value": REJECTED},
                "images": ["a.png"],
                "mmpo": '{"scores": {"a": 1.5}}',
            }
        ],
    ),
    "ms-swift": (
        "swift.jsonl",
        [
            {
                "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": CHOSEN}],
                "rejected_response": REJECTED,
                "images": ["a.png"],
            }
        ],
    ),
    "seva": ("seva.json", [{"id": 1, "image": "a.png", "question": "What?", "chosen": CHOSEN, "reject": REJECTED}]),
    "mdpo": ("mdpo.json", [{"img_path": "a.png", "prompt": "What?", "chosen": CHOSEN, "rejected": REJECTED}]),
    "mia-dpo": (
        "mia.json",
        [{"id": 1, "image": ["a.png"], "prompt": "<image>What?", "chosen": CHOSEN, "rejected": REJECTED}],
    ),
    "sentinel": (
        "sentinel.jsonl",
        [
            {
                "image_path": "a.png",
                "question": "What?",
                "context": "It is.",
                "y_win": CHOSEN,
                "y_lose": REJECTED,
                "type": "y+",
            }
        ],
    ),
    "trl": ("trl.jsonl", [{**MESSAGES, "images": ["a.png"]}]),
}

KINDS = [
    Kind("COCO", "instances_x.json", COCO, _annotations),
    Kind(
        "COCO captions",
        "captions_x.json",
        {"annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]},
        lambda path: _all(read_coco_folder(path.parent)),
        {"instances_x.json": COCO},
    ),
    Kind("annotation rows", "rows.jsonl", ROWS, _annotations),
    Kind("annotation list", "rows.json", ROWS, _annotations),
    Kind("Visual Genome", "image_data.json", VG, _annotations, {"objects.json": VG_OBJECTS}),
    Kind(
        "Visual Genome's objects",
        "objects.json",
        VG_OBJECTS,
        lambda p: _annotations(p.with_name("image_data.json")),
        {"image_data.json": VG},
    ),
    Kind("Visual Genome's whole records", "whole.json", VG_WHOLE, _annotations),
    Kind("vocabulary, lines", "v.txt", "cat, kitten\ndog, puppy\n", ObjectVocabulary.from_file),
    Kind("vocabulary, JSON", "v.json", {"cat": ["kitten"], "dog": []}, ObjectVocabulary.from_file),
    Kind("vocabulary, YAML", "v.yaml", {"cat": ["kitten"], "dog": None}, ObjectVocabulary.from_file),
    Kind("synonyms", "s.yaml", {"big": ["large"]}, read_lexicon),
    Kind("synonyms, JSON", "s.json", {"big": ["large"]}, read_lexicon),
    Kind("recipe", "r.yaml", RECIPE, lambda path: load(str(path), run=path.parent)),
    Kind(
        "lexicon",
        "l.yaml",
        {"classes": {"FINDING": ["rash"]}, "cues": [{"name": "c", "phrases": ["x y"], "score": 0.5}]},
        load_lexicon,
    ),
    Kind(
        "judge's settings",
        "j.yaml",
        {"backend": "server", "model": "m", "base_url": "http://127.0.0.1:1/v1"},
        lambda path: judge_settings([str(path)]),
    ),
    Kind(
        "reports", "r.csv", "id,findings,image\n1,The heart is normal.,a.png\n", lambda path: _all(read_reports(path))
    ),
    Kind(
        "reports, JSON",
        "r.jsonl",
        [{"id": 1, "text": "FINDINGS: Clear.", "images": ["a.png"], "patient": 3}],
        lambda path: _all(read_reports(path)),
    ),
    Kind(
        "videos",
        "v.jsonl",
        [
            {
                "id": "v",
                "video": "v.mp4",
                "qa": [{"question": "What?", "answer": "A cat."}],
                "objects": ["cat"],
                "events": [["a cat", "sits"]],
                "caption": "A cat.",
            }
        ],
        read_videos,
    ),
    Kind("videos, conversations", "v.jsonl", [{"id": "v_1", "video": "v.mp4", "conversations": TURNS}], read_videos),
    Kind("MIA's records", "m.jsonl", [{"id": 1, "image": "a.png", "conversations": TURNS}], mia_plan.read_records),
    Kind("POPE's questions", "coco_pope_random.json", POPE, pope_files.read_questions),
    Kind(
        "POPE's answers",
        "a.json",
        [{"question": "Is there a cat in the image?", "answer": "yes"}],
        pope_files.read_answers,
    ),
    Kind("CHAIR's captions", "c.jsonl", [{"image_id": 1, "caption": "a cat"}], chair.read_captions),
    Kind("CHAIR's own captions", "c.json", {"imgToEval": {"1": {"caption": "a cat"}}}, chair.read_captions),
    Kind("CHAIR's truth", "t.json", {"1": ["cat"]}, chair.read_ground_truth),
    Kind(
        "MME's rows",
        "m.jsonl",
        [
            {
                "question_id": "color/1.jpg",
                "category": "color",
                "question": "Is it? Please answer yes or no.",
                "answer": "Yes",
            }
        ],
        mme_files.read_questions,
    ),
    Kind("MMHal's template", "m.json", MMHAL, mmhal.read_template),
    Kind("MMHal's replies", "m.json", [{"choices": [{"message": {"content": "Rating: 3"}}]}], mmhal.read_judge_replies),
    Kind("HallusionBench", "h.json", HALLUSION, hallusionbench.read_questions),
    Kind("AMBER", "annotations.json", AMBER, amber_files.read_annotations, AMBER_TABLE),
    Kind(
        "AMBER's words",
        "relation.json",
        AMBER_TABLE["relation.json"],
        lambda path: amber_files.read_annotations(path.with_name("annotations.json")),
        {"annotations.json": AMBER, "safe_words.txt": "thing"},
    ),
    Kind("AMBER's queries", "q.json", [{"id": 1, "image": "a.jpg", "query": "Is it?"}], amber_files.read_queries),
    Kind(
        "Object HalBench",
        "o.jsonl",
        [{"image_id": 1, "question": "Describe it.", "image": base64.b64encode(picture(0)).decode()}],
        object_halbench.read_questions,
    ),
    Kind("SHR's images", "s.json", SHR, shr_data.read_images),
    Kind("SHR's facts", "f.jsonl", [{"1": ["A fact."]}], lambda path: shr_data.read_facts([path])),
    Kind("SHR's responses", "r.json", {"1": "A cow."}, shr_data.read_responses),
    Kind(
        "SHR's judgements",
        "j.json",
        {
            "0": {
                "1": {
                    "model_response": "A.",
                    "raw_judgement": "1. correct",
                    "judgement": [{"model_response": "A.", "classification": "correct"}],
                }
            }
        },
        shr_data.read_judgements,
    ),
    Kind("TempCompass", "t.json", COMPASS, lambda path: temporal.tally(*temporal.read(path))),
    Kind("VideoHallucer", "t.json", HALLUCER, lambda path: temporal.tally(*temporal.read(path))),
    Kind(
        "video questions",
        "q.jsonl",
        [{"question_id": 1, "video": "v.mp4", "question": "What?", "answer": "a cat"}],
        video_qa.read_questions,
    ),
    Kind(
        "video table",
        "q.csv",
        "question_id,video,question,answer\n1,v.mp4,What?,a cat\n",
        video_qa.read_questions,
    ),
    Kind(
        "video answers",
        "q.jsonl",
        [{"question_id": 1, "video": "v.mp4", "question": "What?", "answer": "a cat", "pred": "cat"}],
        video_qa.read_answers,
    ),
    Kind(
        "multi-image questions",
        "q.jsonl",
        [
            {
                "id": "1",
                "layout": "sequence",
                "pictures": ["a.png", "b.png"],
                "index": 1,
                "kind": "yes_no",
                "object": "cat",
                "prompt": "Is there a cat in image 1?",
                "answer": "yes",
            }
        ],
        multi_image.read_questions,
    ),
    Kind(
        "NLVR2",
        "n.jsonl",
        [{"identifier": "dev-1-0-0", "label": "True", "sentence": "Two cats."}],
        lambda path: multiple_choice.read_choices("nlvr2", path),
    ),
    Kind(
        "BLINK",
        "b.parquet",
        [
            {
                "idx": "1",
                "question": "Which?",
                "choices": ["one", "two"],
                "answer": "(A)",
                "image_1": {"bytes": picture(0), "path": "a"},
                "sub_task": "x",
            }
        ],
        lambda path: multiple_choice.read_choices("blink", path),
    ),
    Kind(
        "Mantis",
        "m.json",
        [
            {
                "id": "1",
                "question": "Which?",
                "options": ["(A) one", "(B) two"],
                "answer": "A",
                "images": ["a.png"],
                "question_type": "multi-choice",
            }
        ],
        lambda path: multiple_choice.read_choices("mantis_eval", path),
    ),
    Kind(
        "MVBench",
        "m.json",
        [{"video": "v.mp4", "question": "Which?", "candidates": ["one", "two"], "answer": "one"}],
        lambda path: multiple_choice.read_choices("mvbench", path),
    ),
    *(
        Kind(f"convert {name}", file, value, _converted(name), _images("a.png", "b.png"))
        for name, (file, value) in SOURCES.items()
    ),
]


def pairs_folder(folder: Path) -> Path:
    """A folder of pairs whose one shard can be spoilt."""
    with PairWriter(folder, scores=["margin"]) as writer:
        for number in range(3):
            writer.add(make_pair(number))
    (shard,) = (folder / "data").glob("*.parquet")
    return shard


def read_folder(folder: Path) -> None:
    _all(read_pairs(folder))
    _all(PairDataset(folder))
    read_card(folder)


REPLIES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "rating": ("Rating: 3", lambda text: [read_rating(text, mode) for mode in ("strict", "tolerant")]),
    "same": ("1", lambda text: [read_same(text, mode) for mode in ("strict", "tolerant")]),
    "correctness": ("correct", lambda text: [read_correctness(text, mode) for mode in ("strict", "tolerant")]),
    "objects": ('["cat", "dog"]', lambda text: [read_objects(text, mode) for mode in ("strict", "tolerant")]),
    "items": ('[{"i": 1, "label": "none"}, {"i": 2, "label": "none"}]', lambda text: read_items(text, 2)),
}

HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "\x1b[2J",
    "\ud800",
    "a" * 5000,
    "../../x",
    "/etc/passwd",
    "<image>" * 50,
    "${model}",
    [],
    [[]],
    [None],
    {},
    {"": None},
    {"a": {"b": []}},
    [1, "a", {}],
    "9" * 400,
    json.loads("[" * 95 + "]" * 95),
]
DEEP = (b"[" * 3000 + b"]" * 3000, b'{"a":' * 3000 + b"1" + b"}" * 3000, b"9" * 500, b"1e999", b'"\\ud800"', b"&a [*a]")


def spoilt(value: Any, dice: random.Random) -> Any:
    """The value with one part of it replaced, dropped or doubled."""
    value = copy.deepcopy(value)
    holders: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        whole = stack.pop()
        keys = list(whole) if isinstance(whole, dict) else range(len(whole)) if isinstance(whole, list) else []
        holders += [(whole, key) for key in keys]
        stack += [whole[key] for key in keys]
    if not holders or dice.random() < 0.05:
        return dice.choice(HOSTILE)
    whole, key = dice.choice(holders)
    action = dice.random()
    if action < 0.15:
        del whole[key]
    elif action < 0.25 and isinstance(whole, list):
        whole.append(whole[key])
    else:
        whole[key] = dice.choice(HOSTILE)
    return value


def damaged(data: bytes, dice: random.Random) -> bytes:
    """The bytes with some of them flipped, cut off, doubled or replaced by something deep."""
    if not data:
        return b"\xff"
    place = dice.randrange(len(data))
    match dice.randrange(6):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :]
        case 2:
            return data[:place] + data[place // 2 :]
        case 3:
            return data[:place] + dice.choice(DEEP) + data[place:]
        case 4:
            return data.decode("utf-8", "replace").encode(
                dice.choice(["utf-16", "utf-8-sig", "utf-32", "cp037"]), "replace"
            )
        case _:
            return data[:place] + bytes(dice.randrange(256) for _ in range(8)) + data[place + 8 :]
