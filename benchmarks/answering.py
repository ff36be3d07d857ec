"""How much faster are questions answered together than one by one, with the same answers?

    python benchmarks/answering.py [--quick] [--json OUT] [--threads 2] [--per-image 18 90]
    python benchmarks/answering.py --pope [--json OUT] [--threads 2]

A LLaVA with random weights and LLaVA-1.5's token layout (336 px, 576 image tokens, vocabulary 32,000). One by one is
what evaluation harnesses do: processor and `model.generate(do_sample=False)` for each question. Both sides run in this
process on the same model, preprocessing included; one short warm-up each (with the engine's self-check) is not counted.
Answers have 8 tokens at most. Random weights never end an answer by themselves, so two cases are measured: every third
token of the vocabulary ends it (short answers of different lengths, as to real questions), and none does (every answer
takes all 8 tokens).

The engine gets all images and their questions in one call, as `mmpo eval` does, and batches them by its default budget.

Beside it stands the share of the bound: the seconds of a plain forward over the same distinct tokens, each once, and
one tower pass an image (`benchmarks/speed/answers.py`), over the engine's seconds.

Memory is the peak of a process that answers the same questions one way only, model and libraries included; freed blocks
go back to the system at once on both sides, so that the peak is of what is in use.

`--pope` is a whole evaluation instead: POPE's three splits of 3,000 questions about 500 images of the demo world, asked
of the demo model by `mmpo.eval` from the annotations to the scorecard.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import MEMORY_RETURNED, command_line, in_own_process, peak_mib
from benchmarks.speed.answers import answers_bound
from mmpo.errors import in_one_line
from mmpo.files.atomic import read_json, write_json
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.generation.answer import Answer, AnswerEngine
from tests.tiny import tiny_image, tiny_llava

OBJECTS = """
    person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep cow elephant bear zebra
    giraffe backpack umbrella handbag tie suitcase frisbee kite skateboard surfboard bottle cup fork knife spoon bowl
    banana apple sandwich orange carrot pizza donut cake chair couch bed toilet laptop mouse keyboard oven sink book
""".split()  # noqa: SIM905
ANSWER_TOKENS, SAMPLE_TOKENS, SAMPLES = 8, 32, 10


def benchmark_model(layers: int) -> VLM:
    """LLaVA-1.5's layout at a size that a CPU can answer with; the tower's share of the work is close to the 7B
    model's."""
    vlm = tiny_llava(
        image_size=336,
        patch_size=14,
        text={
            "vocab_size": 32000,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "initializer_range": 0.08,  # large enough for different questions to have different answers
        },
        vision={"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4},
    )
    # As in LLaVA-1.5's vocabulary, an everyday noun is one token: about ten tokens of a question are its own.
    vlm.tokenizer.add_tokens([f" {name}" for name in OBJECTS])
    return vlm


def questions(number: int, of_image: int) -> list[str]:
    """POPE's wording."""
    names = [OBJECTS[(of_image * 7 + i) % len(OBJECTS)] for i in range(number)]
    return [f"Is there {'an' if name[0] in 'aeio' else 'a'} {name} in the image?" for name in names]


def ask_ordinarily(vlm: VLM, image: Image.Image, text: str, **options: Any) -> list[list[int]]:
    """One question by `model.generate`. Returns the new token ids of every sequence."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = vlm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = vlm.processor(images=image, text=prompt, return_tensors="pt").to(vlm.device, vlm.dtype)
    made: list[list[int]] = vlm.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()
    vlm.tokenizer.batch_decode(made, skip_special_tokens=True)
    return made


def ask_one(vlm: VLM, image: Image.Image, text: str, **options: Any) -> list[int]:
    (ids,) = ask_ordinarily(vlm, image, text, **options)
    return ids


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare_answers(
    vlm: VLM, engine: AnswerEngine, images: list[Image.Image], per_image: int, end_ids: list[int]
) -> dict[str, Any]:
    vlm.base.generation_config.eos_token_id = end_ids
    groups = [(image, questions(per_image, number)) for number, image in enumerate(images)]
    slow, alone = timed(
        lambda: [
            ask_one(vlm, image, text, do_sample=False, max_new_tokens=ANSWER_TOKENS)
            for image, texts in groups
            for text in texts
        ]
    )
    fast, shared = timed(lambda: list(engine.answer(groups)))
    made = [answer.token_ids for answer in shared]
    least = [
        answers_bound(vlm, image, texts, made[number * per_image : (number + 1) * per_image])
        for number, (image, texts) in enumerate(groups)
    ]
    least[0]()  # a warm-up
    bound, _ = timed(lambda: [once() for once in least])
    different = sum(list(answer.token_ids) != ids for answer, ids in zip(shared, alone, strict=True))
    return {
        "images": len(images),
        "questions_per_image": per_image,
        "one_by_one_s": slow,
        "shared_s": fast,
        "speedup": slow / fast,
        "bound_s": bound,
        "share_of_bound": bound / fast,
        "questions": len(shared),
        "distinct_answers": len({tuple(answer.token_ids) for answer in shared}),
        "mean_answer_tokens": sum(len(answer.token_ids) for answer in shared) / len(shared),
        "different_answers": different,
        "smallest_margin": min(answer.margin for answer in shared),
    }


def answer_one_way(layers: int, way: str, per_image: int, n_images: int) -> None:
    """Answer all questions one way and print the peak memory: the body of a process of its own."""
    vlm = benchmark_model(layers)
    vlm.base.generation_config.eos_token_id = [vlm.eos_id]
    groups = [(tiny_image(number, (448, 336)), questions(per_image, number)) for number in range(n_images)]
    if way == "shared":
        list(AnswerEngine(vlm, max_new_tokens=ANSWER_TOKENS, sharing="on").answer(groups))
    else:
        image, texts = groups[0]
        for text in texts[:3]:  # each is like the others
            ask_one(vlm, image, text, do_sample=False, max_new_tokens=ANSWER_TOKENS)
    print(round(peak_mib() * 2**20))


def compare_memory(layers: int, threads: int, per_image: int, n_images: int) -> dict[str, Any]:
    peaks = {}
    sizes = {"--layers": layers, "--threads": threads, "--per-image": per_image, "--images": n_images}
    for way in ("alone", "shared"):
        words = ["--answer", way, *(word for name, number in sizes.items() for word in (name, str(number)))]
        peaks[way] = in_own_process(__file__, words, MEMORY_RETURNED)
    return {
        "one_by_one_bytes": peaks["alone"],
        "shared_bytes": peaks["shared"],
        "ratio": peaks["shared"] / peaks["alone"],
    }


def pope_run(threads: int, images: int) -> dict[str, Any]:
    """POPE built from the demo world and asked of the demo model, from the annotations to the scorecard."""
    from mmpo.demo import model_path
    from mmpo.demo.world import write_split
    from mmpo.eval.harness import evaluate
    from mmpo.eval.settings import EvalSettings

    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        drawing, _ = timed(lambda: write_split(world, "test", images * 8 // 5))  # not each has three kinds of objects
        settings = EvalSettings(
            model=str(model_path()),
            annotations=str(world / "annotations.jsonl"),
            benchmarks=["pope"],
            pope={"images": images},  # type: ignore[arg-type]
        )
        seconds, card = timed(lambda: evaluate(settings, Path(folder) / "run"))
        made = read_json(Path(folder) / "run/engine.json")["after"]
    total = next(count for count in card.counts if count.split == "all splits")
    return {
        "threads": threads,
        "images": total.images,
        "questions": total.questions,
        "distinct_questions": made["answers"],
        "drawing_s": drawing,
        "evaluation_s": seconds,
        "asking_s": made["seconds"],
        "self_check": {key: made[key] for key in ("asked", "near_ties", "different", "unshared_reason")},
        "mean_F1": card.row("pope", "mean_F1", "all splits").after.value,
    }


def compare_samples(vlm: VLM, engine: AnswerEngine, image: Image.Image) -> dict[str, Any]:
    text = "Describe the image."
    options = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_new_tokens": SAMPLE_TOKENS}
    slow, _ = timed(lambda: [ask_one(vlm, image, text, **options) for _ in range(SAMPLES)])
    fast, _ = timed(lambda: engine.samples(image, text, SAMPLES, top_p=0.95, max_new_tokens=SAMPLE_TOKENS))
    return {"k": SAMPLES, "new_tokens": SAMPLE_TOKENS, "separate_s": slow, "shared_s": fast, "speedup": slow / fast}


def demo_rate(folder: Path, n_images: int) -> dict[str, Any]:
    """Questions a second with the shipped demo model, default settings, 18 questions an image."""
    vlm = load_vlm(folder)
    size = int(vlm.config.vision_config.image_size)
    groups = [(tiny_image(i, (size, size)), questions(18, i)) for i in range(n_images)]
    engine = AnswerEngine(vlm, max_new_tokens=ANSWER_TOKENS)
    seconds, answers = timed(lambda: list[Answer](engine.answer(groups)))
    return {"questions": len(answers), "seconds": seconds, "questions_per_s": len(answers) / seconds}


def main() -> None:
    parser = command_line(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a smaller model and one image; with --pope, 20 images")
    parser.add_argument("--per-image", type=int, nargs="+", default=[18, 90], help="questions an image, one or several")
    parser.add_argument("--pope", action="store_true", help="time a whole POPE run with the demo model instead")
    parser.add_argument("--answer", choices=["alone", "shared"], help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.answer:
        answer_one_way(args.layers, args.answer, args.per_image[0], args.images)
        return
    results = time_pope(args.threads, args.quick) if args.pope else compare(args.threads, args.quick, args.per_image)
    if args.json:
        write_json(args.json, results)


def time_pope(threads: int, quick: bool) -> dict[str, Any]:
    results = pope_run(threads, 20 if quick else 500)
    print(
        f"POPE, {results['questions']:,} questions ({results['distinct_questions']:,} distinct) about "
        f"{results['images']} images, {threads} threads: {results['evaluation_s']:.1f} s from annotations to "
        f"scorecard, of which asking {results['asking_s']:.1f} s; drawing the images took {results['drawing_s']:.1f} s"
    )
    if results["self_check"]["unshared_reason"]:
        print(f"WARNING: sharing was off: {results['self_check']['unshared_reason']}")
    return results


def compare(threads: int, quick: bool, per_image: list[int]) -> dict[str, Any]:
    layers = 4 if quick else 8
    vlm = benchmark_model(layers)
    parameters = sum(p.numel() for p in vlm.model.parameters()) / 1e6
    print(f"random LLaVA, {parameters:.0f}M parameters ({layers} layers of 512), fp32, {threads} threads")
    engine = AnswerEngine(vlm, max_new_tokens=ANSWER_TOKENS)
    warm = tiny_image(99, (448, 336))
    list(engine.answer([(warm, questions(3, 0))]))  # warm-up, and the self-check; then one for the other side
    ask_one(vlm, warm, "Is there a dog in the image?", do_sample=False, max_new_tokens=ANSWER_TOKENS)
    cases = {"short answers": list(range(0, 32000, 3)), "answers at the limit": [vlm.eos_id]}
    answers: list[dict[str, Any]] = []
    for number in per_image:
        # about as many questions for every number of them an image
        images = [tiny_image(i, (448, 336)) for i in range(1 if quick else max(1, round(72 / number)))]
        memory = compare_memory(layers, threads, number, len(images))
        for case, end_ids in cases.items():
            numbers = compare_answers(vlm, engine, images, number, end_ids)
            answers.append({"case": case, **numbers, "memory": memory})
            print(
                f"{number} questions an image, {case} (mean {numbers['mean_answer_tokens']:.1f} tokens), "
                f"{numbers['questions']} in all, {numbers['distinct_answers']} distinct answers: "
                f"one by one {numbers['one_by_one_s']:.2f} s, "
                f"shared {numbers['shared_s']:.2f} s: {numbers['speedup']:.1f}x, "
                f"{numbers['share_of_bound']:.2f} of the bound, "
                f"{numbers['different_answers']} different answers (smallest margin {numbers['smallest_margin']:.1g})"
            )
        print(
            f"{number} questions an image, peak memory: one by one {memory['one_by_one_bytes'] / 2**20:.0f} MiB, "
            f"shared {memory['shared_bytes'] / 2**20:.0f} MiB: {memory['ratio']:.2f}x"
        )
    samples = compare_samples(vlm, engine, warm)
    print(
        f"{samples['k']} samples of {samples['new_tokens']} tokens: separate {samples['separate_s']:.2f} s, "
        f"one prefill {samples['shared_s']:.2f} s: {samples['speedup']:.1f}x"
    )
    results: dict[str, Any] = {
        "threads": threads,
        "parameters_m": parameters,
        "answers": answers,
        "samples": samples,
    }
    demo = Path(__file__).resolve().parents[1] / "mmpo" / "demo" / "model"
    if (demo / "config.json").is_file():
        results["demo"] = demo_rate(demo, 10 if quick else 50)
        print(f"demo model: {results['demo']['questions_per_s']:.0f} questions/s, self-check included")
    if engine.unshared_reason:
        print(f"WARNING: sharing was off: {engine.unshared_reason}")
    return results


if __name__ == "__main__":
    in_one_line(main)
