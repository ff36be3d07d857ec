"""Small valid files of every kind that mmpo reads from outside, and who reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpo.cli.judge_option import judge_settings
from mmpo.data.annotations.read import read_annotations, read_coco_folder
from mmpo.data.convert import convert
from mmpo.data.pair import text_message
from mmpo.data.reader import read_pairs
from mmpo.data.video_lists import read_videos
from mmpo.data_builders.mia import plan as mia_plan
from mmpo.radiology.lexicon import load_lexicon
from mmpo.radiology.reports import read_reports
from mmpo.recipes import load
from mmpo.text.synonyms import read_lexicon
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data.making import picture
from tests.faults.hostile import Kind, all_of
from tests.faults.hostile_benchmarks import BENCHMARKS


def _annotations(path: Path) -> None:
    for image in read_annotations(path):
        json.dumps([image.id, image.path, image.object_names, [item.attributes for item in image.objects]])
        str(image.id).encode()


def _converted(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> None:
        out = path.parent / "out"
        convert(path, out, source_format=name, images=path.parent, overwrite=True)
        all_of(read_pairs(out))

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
        lambda path: all_of(read_coco_folder(path.parent)),
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
        "reports", "r.csv", "id,findings,image\n1,The heart is normal.,a.png\n", lambda path: all_of(read_reports(path))
    ),
    Kind(
        "reports, JSON",
        "r.jsonl",
        [{"id": 1, "text": "FINDINGS: Clear.", "images": ["a.png"], "patient": 3}],
        lambda path: all_of(read_reports(path)),
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
    *BENCHMARKS,
    *(
        Kind(f"convert {name}", file, value, _converted(name), _images("a.png", "b.png"))
        for name, (file, value) in SOURCES.items()
    ),
]
