"""HA-DPO's annotation files (Zhao et al. 2023, arXiv:2311.16839): descriptions in several wordings, and yes/no answers.

    desc_data.json   [{"image_id", "chosen": [str, …], "rejected": [str, …]}, …], or an object of these by image id
    pope_data.json   [{"image_id", "question", "answer": "yes" | "no", "chosen", "reject" | "rejected", "correct"?}, …]

Images are Visual Genome's, by id.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal

from pydantic import Field

from mmpo.data.convert.format import Format, Options, SourceContext
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import bad, need, pair_of
from mmpo.data.pair import Message, PreferencePair
from mmpo.errors import Quarantined

# The published files leave the instruction out; these are ours.
DESCRIBE = (
    "Describe this image in detail.",
    "Give a detailed description of what you see in this picture.",
    "What does the image show? Please be thorough.",
    "Write a detailed account of the contents of this image.",
)


class HadpoOptions(Options):
    """Options for making pairs of HA-DPO's files."""

    pairs_per_image: Literal[1, 3, 9] = Field(
        3,
        description="Pairs from the wordings of a description: 1 drawn at random (as the released training code), "
        "3 side by side (as its authors say they trained), 9 each with each.",
    )
    keep_correct: bool = Field(
        False, description="Keep questions that the described model answered correctly; its training left them out."
    )
    repeat_descriptions: int = Field(
        1, ge=1, description="How often pairs about descriptions are there; the released LLaVA training has them twice."
    )
    repeat_questions: int = Field(
        1, ge=1, description="How often pairs about questions are there; the released InstructBLIP training: twice."
    )
    prompt: str | None = Field(None, description="Instruction of all descriptions, instead of one of four paraphrases.")
    seed: int = Field(0, description="Decides the paraphrase, and the wordings where one pair is drawn.")


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    """One question, or the wordings of one description."""
    if "question" in data:
        yield from list(_question(data, row, context)) * context.options.repeat_questions
    else:
        yield from list(_descriptions(data, row, context)) * context.options.repeat_descriptions


def _question(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    image_id = str(need(data, "image_id", kind=(str, int)))
    question, chosen, rejected = need(data, "question"), need(data, "chosen"), need(data, "reject", "rejected")
    if data.get("correct") is True and not context.options.keep_correct:
        raise Quarantined("filter", "already_correct", "the described model answered this question correctly")
    answer = data.get("answer")
    if answer is not None:
        if answer not in ("yes", "no"):
            raise bad("bad_answer", f"`answer` is {answer!r}, not yes or no")
        if not chosen.lstrip().lower().startswith(answer) or rejected.lstrip().lower().startswith(answer):
            raise bad("answer_mismatch", f"the answer is {answer}; chosen {chosen[:20]!r}, rejected {rejected[:20]!r}")
    yield pair_of(
        row, "hadpo", prompt=_ask(question), chosen=chosen, rejected=rejected,
        images=[context.visual_genome.path(image_id)], noted={"image_id": image_id, "answer": answer},
    )  # fmt: skip


def _descriptions(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    image_id = str(need(data, "image_id", kind=(str, int)))
    chosen, rejected = _wordings(data, "chosen"), _wordings(data, "rejected", "reject")
    options = context.options
    rng = random.Random(f"{options.seed}/{image_id}")  # by image: the same whatever comes before it
    prompt = options.prompt or rng.choice(DESCRIBE)
    picks = list(product(range(len(chosen)), range(len(rejected))))
    if options.pairs_per_image == 1:
        picks = [(rng.randrange(len(chosen)), rng.randrange(len(rejected)))]
    elif options.pairs_per_image == 3:
        picks = [(i, i) for i in range(min(len(chosen), len(rejected)))]
    path = context.visual_genome.path(image_id)
    for i, k in picks:
        yield pair_of(
            row, "hadpo", id=f"{row.key}-{i}-{k}", prompt=_ask(prompt), chosen=chosen[i], rejected=rejected[k],
            images=[path], noted={"image_id": image_id, "wordings": [i, k]},
        )  # fmt: skip


def _wordings(data: Mapping[str, Any], *names: str) -> list[str]:
    texts = need(data, *names, kind=(list, str))
    texts = [texts] if isinstance(texts, str) else texts
    if not texts or not all(isinstance(text, str) for text in texts):
        raise bad("bad_type", f"`{names[0]}` is not a list of texts")
    return list(texts)


def _ask(question: str) -> list[Message]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def _fits(row: Mapping[str, Any]) -> bool:
    descriptions = "image_id" in row and isinstance(row.get("chosen"), list) and isinstance(row.get("rejected"), list)
    return descriptions or {"image_id", "question", "answer", "chosen"} <= row.keys()


HADPO = Format("hadpo", "HA-DPO: desc_data.json, pope_data.json", read, _fits, options=HadpoOptions)
