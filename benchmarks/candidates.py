"""How fast are claims checked and candidates made with one prefill of a picture, and without?

    python benchmarks/candidates.py [--per-picture 6 18 60] [--k 10] [--threads N] [--rounds 3] [--quick] [--json OUT]

A LLaVA with random weights and LLaVA-1.5's token layout (336 px, 576 image tokens, vocabulary 32,000), as in
answering.py. Three things, each against what one writes without the engine, preprocessing included on both sides:

claims      "Is there a … in the image?", one new token, read as yes against no: P(yes) from one prefill of the picture
            and its questions together; against one `generate` call a question. As many calls are timed as --calls says
            and their mean is taken: each is like the others.
candidates  the greedy description and K samples from one prefill, against K + 1 `generate` calls.
sentences   K next sentences behind an answer begun, from one prefill, each stopped behind its first sentence, against K
            calls with stop strings. With the demo model, for random weights end no sentence.

Answers must be equal: the yes-no logits of both ways differ by rounding at most, greedy descriptions have the same
tokens, and samples with and without sharing are the same. Ways take turns; medians are compared.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import StopStringCriteria

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.answering import ask_one, benchmark_model, questions
from benchmarks.measuring import command_line, seconds_in_turns
from mmpo.demo import model_path
from mmpo.demo.world import world_split
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.choosing import YesNo
from mmpo.models.generation.generate import PromptGroup, answering, generate_alone
from tests.tiny import tiny_image

PROMPT = "Describe this image in detail."
BEGUN = "The picture shows a beach."


def picture(number: int) -> Image.Image:
    return tiny_image(number, (448, 336))


def yes_no_alone(vlm: VLM, image: Image.Image, text: str) -> tuple[float, float]:
    """The yes and the no logit of one question by `model.generate` on it alone, processor included."""
    processed = process_images(vlm, [image])
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    group = PromptGroup([encode_prompt(vlm, messages, processed.placeholders)], processed.tensors)
    with answering(vlm.model):
        row, _ = generate_alone(vlm, group, 0, max_new_tokens=1, reader=YesNo(vlm.tokenizer).read)
    assert row.first is not None
    return row.first[0], row.first[1]


def measure_claims(vlm: VLM, per_picture: int, calls: int, rounds: int) -> dict[str, Any]:
    """Claims a second about one picture, and the largest difference of a yes-no logit between the two ways."""
    engine = AnswerEngine(vlm, max_new_tokens=1, token_budget=1 << 20, sharing="on")
    texts = questions(per_picture, 1)
    few = texts[:calls]
    ways = {
        "alone": lambda: [ask_one(vlm, picture(1), text, do_sample=False, max_new_tokens=1) for text in few],
        "shared": lambda: list(engine.answer([(picture(1), texts)])),
    }
    for way in ways.values():
        way()
    seconds = {name: statistics.median(taken) for name, taken in seconds_in_turns(ways, rounds).items()}
    shared = list(engine.answer([(picture(1), texts)]))
    moved = 0.0
    for text, answer in zip(few, shared, strict=False):
        yes, no = yes_no_alone(vlm, picture(1), text)
        assert answer.yes_logit is not None and answer.no_logit is not None
        moved = max(moved, abs((yes - no) - (answer.yes_logit - answer.no_logit)))
    alone = len(few) / seconds["alone"]
    together = per_picture / seconds["shared"]
    return {
        "per_picture": per_picture,
        "alone_per_s": alone,
        "shared_per_s": together,
        "faster": together / alone,
        "calls_timed": len(few),
        "largest_difference": moved,
    }


def measure_candidates(vlm: VLM, k: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Candidates a second, K samples and the greedy one."""
    engine = AnswerEngine(vlm, max_new_tokens=tokens, token_budget=1 << 20, sharing="on")
    vlm.base.generation_config.eos_token_id = [len(vlm.tokenizer) - 1]
    drawn = {"do_sample": True, "temperature": 0.7, "top_k": 0, "max_new_tokens": tokens}

    def alone() -> list[list[int]]:
        greedy = ask_one(vlm, picture(2), PROMPT, do_sample=False, max_new_tokens=tokens)
        return [greedy, *(ask_one(vlm, picture(2), PROMPT, **drawn) for _ in range(k))]

    def shared(engine: AnswerEngine = engine) -> list[list[int]]:
        options: dict[str, Any] = {"temperature": 0.7, "greedy_first": True}
        (answers,) = engine.sample_many([(picture(2), PROMPT)], k, **options)
        return [list(answer.token_ids) for answer in answers]

    same = alone()[0] == shared()[0]
    sampled_alike = shared()[:3] == shared(AnswerEngine(vlm, max_new_tokens=tokens, sharing="off"))[:3]
    seconds = seconds_in_turns({"alone": alone, "shared": shared}, rounds)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "k": k,
        "tokens": tokens,
        "alone_per_s": (k + 1) / median["alone"],
        "shared_per_s": (k + 1) / median["shared"],
        "faster": median["alone"] / median["shared"],
        "greedy_equal": same,
        "samples_equal_without_sharing": sampled_alike,
    }


def measure_sentences(k: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Next sentences a second of the demo model behind an answer begun."""
    vlm = load_vlm(model_path())
    shown = next(iter(world_split("test", 1))).draw()
    engine = AnswerEngine(vlm, max_new_tokens=tokens, token_budget=1 << 20, sharing="on")
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]},
        {"role": "assistant", "content": [{"type": "text", "text": BEGUN}]},
    ]
    options: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": tokens}

    def alone() -> list[list[int]]:
        found = []
        for _ in range(k):
            processed = process_images(vlm, [shown])
            ids = torch.tensor([encode_prompt(vlm, messages, processed.placeholders)])
            made = vlm.base.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **processed.tensors,
                **options,
                stopping_criteria=[StopStringCriteria(vlm.tokenizer, [".", "!", "?", "\n"])],
            )
            found.append(made[0, ids.shape[1] :].tolist())
        return found

    def shared(engine: AnswerEngine = engine) -> list[list[int]]:
        (answers,) = engine.sample_many([(shown, messages)], k, stop="sentence")
        return [list(answer.token_ids) for answer in answers]

    alike = shared() == shared(AnswerEngine(vlm, max_new_tokens=tokens, sharing="off"))
    alone()
    seconds = seconds_in_turns({"alone": alone, "shared": shared}, rounds)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    stopped = sum(answer.stopped for answer in next(engine.sample_many([(shown, messages)], k, stop="sentence")))
    return {
        "k": k,
        "alone_per_s": k / median["alone"],
        "shared_per_s": k / median["shared"],
        "faster": median["alone"] / median["shared"],
        "stopped": stopped,
        "samples_equal_without_sharing": alike,
    }


def main() -> None:
    parser = command_line(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--per-picture", type=int, nargs="+", default=[6, 18, 60], help="questions a picture")
    parser.add_argument("--k", type=int, default=10, help="samples a picture")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens a sample")
    parser.add_argument("--calls", type=int, default=6, help="questions asked one by one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smaller model, one round, few tokens")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layers, rounds, tokens = (2, 1, 8) if args.quick else (8, args.rounds, args.tokens)
    vlm = benchmark_model(layers)
    results: dict[str, Any] = {"threads": args.threads, "layers": layers, "rounds": rounds, "claims": []}
    calls = 2 if args.quick else args.calls
    for number in args.per_picture:
        numbers = measure_claims(vlm, number, min(calls, number), rounds)
        results["claims"].append(numbers)
        print(
            f"{number} claims a picture: {numbers['alone_per_s']:.1f} a second one by one, "
            f"{numbers['shared_per_s']:.1f} from one prefill: {numbers['faster']:.1f}x; "
            f"yes-no logits differ by {numbers['largest_difference']:.1g} at most"
        )
    for name, work in {
        "candidates": partial(measure_candidates, vlm),
        "sentences": measure_sentences,
    }.items():
        numbers = results[name] = work(args.k, tokens, rounds)
        equal = numbers["samples_equal_without_sharing"] and numbers.get("greedy_equal", True)
        print(
            f"{name}, {args.k} samples: {numbers['alone_per_s']:.2f} a second by separate calls, "
            f"{numbers['shared_per_s']:.2f} from one prefill: {numbers['faster']:.1f}x; "
            f"answers {'equal' if equal else 'DIFFER'}"
            + (f", {numbers['stopped']} stopped" if "stopped" in numbers else "")
        )
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    in_one_line(main)
