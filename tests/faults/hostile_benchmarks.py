"""Small valid files of the benchmarks, and who reads them."""

from __future__ import annotations

import base64

from mmpo.eval.amber import files as amber_files
from mmpo.eval.chair import metrics as chair
from mmpo.eval.hallusionbench import files as hallusionbench
from mmpo.eval.mme import files as mme_files
from mmpo.eval.mmhal import metrics as mmhal
from mmpo.eval.multi_image import metrics as multi_image
from mmpo.eval.multiple_choice import metrics as multiple_choice
from mmpo.eval.object_halbench import metrics as object_halbench
from mmpo.eval.pope import files as pope_files
from mmpo.eval.shr import files as shr_data
from mmpo.eval.temporal import metrics as temporal
from mmpo.eval.video_qa import metrics as video_qa
from tests.data.making import picture
from tests.faults.hostile import Kind

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


SHR = [
    {
        "image_id": "5",
        "image": {"width": 9, "height": 9},
        "objects": {
            "image_id": 1,
            "objects": [{"object_id": 4, "x": 0, "y": 0, "w": 3, "h": 3, "names": ["cow"], "synsets": []}],
        },
        "regions": {"regions": [{"phrase": "a cow", "x": 0, "y": 0, "width": 2, "height": 2}]},
    }
]

BENCHMARKS = [
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
                "kind": "present",
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
]
