"""OPA-DPO's training data (Yang et al. 2025, arXiv:2501.09695), a folder from `save_to_disk`.

    {"queries": "<image>\\n…", "image_bytes": base64 (or `images`, `image_id`: a path), "standard_response",
     "original_generate_response", "AI_pseudo_response", "AI_json_report"}

The model's own answer (`original_generate_response`) is rejected, once for the ground truth (`standard_response`) and
once for its correction by GPT-4V (`AI_pseudo_response`). The report has a hallucination score (1 to 4) and a kind of
error for each sentence, from which the weights come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from mmpo.data.convert.format import Format, Options, SourceContext
from mmpo.data.convert.media import images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import messages_of, need, pair_of
from mmpo.data.pair import PreferencePair
from mmpo.data.spans import Span
from mmpo.outside import json_of

SCORE_WEIGHTS = {1: 2.5, 2: 2.0, 3: 1.5, 4: 1.0}  # by hallucination score, 1 the worst
IMAGE_ERROR = "image_recognition_error"
IMAGE_WEIGHT = 3.0  # of a sentence that was wrong about the image, in comparisons with another image


class OpaDpoOptions(Options):
    """Options for OPA-DPO: which of the two pairs of a row are made, and whether sentences have weights."""

    pairs: Literal["both", "ground_truth", "revised"] = Field(
        "both", description="The ground truth against the answer, its correction against the answer, or both."
    )
    weights: bool = Field(True, description="Weigh the sentences of a correction by the report's scores.")


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    images = images_of(data, context.images, "image_bytes", "images", "image", "image_id")
    prompt = messages_of([("user", need(data, "queries", "query"))], len(images), trim=True)
    rejected = need(data, "original_generate_response")
    kept = context.options.pairs
    name = data.get("id")
    identity = row.key if name in (None, "") else str(name)

    def pair(kind: str, column: str, **fields: Any) -> PreferencePair:
        return pair_of(
            row, "opa-dpo", id=f"{identity}-{kind}" if kept == "both" else identity, images=images,
            noted={"compared": kind}, prompt=prompt, chosen=need(data, column), rejected=rejected, **fields,
        )  # fmt: skip

    if kept != "revised":
        yield pair("ground_truth", "standard_response")
    if kept != "ground_truth":
        sentences = _sentences(data.get("AI_json_report")) if context.options.weights else []
        revised = need(data, "AI_pseudo_response")
        scores = [SCORE_WEIGHTS.get(sentence.get("score", 4), 1.0) for sentence in sentences]
        wrong = [sentence.get("error type", sentence.get("error_type")) == IMAGE_ERROR for sentence in sentences]
        shown = _spans(revised, sentences, "rewritten", [IMAGE_WEIGHT if one else 1.0 for one in wrong])
        yield pair(
            "revised", "AI_pseudo_response", chosen_weights=_spans(revised, sentences, "rewritten", scores) or None,
            rejected_weights=_spans(rejected, sentences, "copied", scores) or None,
            image_weights=shown or None,
        )  # fmt: skip


def _sentences(report: Any) -> list[Mapping[str, Any]]:
    """The report's entries in their order; none where it is missing or broken, and then every character weighs 1."""
    try:
        found = json_of(report) if isinstance(report, str) else report
    except ValueError:
        return []
    return [entry for entry in found.values() if isinstance(entry, Mapping)] if isinstance(found, Mapping) else []


def _text(sentence: Mapping[str, Any], which: str) -> str:
    text = sentence.get(f"{which} content", sentence.get(f"{which}_content", ""))
    return text.strip() if isinstance(text, str) else ""


def _spans(text: str, sentences: list[Mapping[str, Any]], which: str, weights: list[float]) -> list[Span]:
    """Weighted spans of the sentences in the text, in order; those of weight 1 and those not found need none."""
    spans: list[Span] = []
    position = 0
    for sentence, weight in zip(sentences, weights, strict=True):
        wanted = _text(sentence, which)
        start = text.find(wanted, position) if wanted else -1
        if start < 0:
            continue
        position = start + len(wanted)
        if weight != 1.0:
            spans.append({"start": start, "end": position, "weight": weight})
    return spans


def _fits(row: Mapping[str, Any]) -> bool:
    return {"queries", "standard_response", "original_generate_response", "AI_pseudo_response"} <= row.keys()


OPA_DPO = Format(
    "opa-dpo", "OPA-DPO: ground truth and correction against the answer", read, _fits, options=OpaDpoOptions
)
