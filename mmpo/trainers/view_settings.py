"""Settings of the further views of a pair that an objective compares with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mmpo.data.corruption import CorruptionKind
from mmpo.settings import LEXICON, Need, Settings

SIMILARITY = Need("model", words=("policy",))


class CorruptionSettings(Settings):
    """The corruption of the image, for objectives that compare with a corrupted one."""

    kind: CorruptionKind = Field(
        description="crop: a small part blown up; diffusion: noise of the diffusion schedule on normalized pixels; "
        "patches: some of a grid hidden; "
        "black: nothing; other: another pair's image; nearest: the most similar of these; see mmpo/data/corruption.py."
    )
    parameters: dict[str, float] = Field(
        default={}, description="Parameters of that corruption, e.g. {step: 500} or {least: 0.01, most: 0.2}."
    )
    relevance: Annotated[str, SIMILARITY] = Field(
        default="policy",
        description="Model that finds similar images, with `nearest`: the folder of a CLIP-like model, or `policy`.",
    )


class PerturbationSettings(Settings):
    """The perturbation of the question for TARS."""

    mode: Literal["mask", "replace", "synonyms"] = Field(
        default="mask", description="Put a mask token, random tokens, or a synonym of `lexicon` in a word's place."
    )
    relevance: Annotated[str, SIMILARITY] = Field(
        default="policy",
        description="Model that rates how words fit the image: the folder of a CLIP-like model, or `policy` for the "
        "policy's own image tokens and word embeddings.",
    )
    omega: float = Field(
        default=1e-3, ge=0, description="The larger, the more words: floor(omega / lead of the first word) + 1."
    )
    cap: float = Field(default=1.0, gt=0, le=1, description="At most this share of the question's words.")
    words: Literal["irrelevant", "random"] = Field(
        default="irrelevant", description="random: as many words, but any; the paper's control."
    )
    unit: Literal["word", "token"] = Field(
        default="word", description="What is ranked and changed: whole words, or every token of them by itself."
    )
    template: str = Field(
        default="{}",
        pattern=r"\{\}",
        description="How a CLIP-like model gets a word, e.g. `a photo of {}`; `{}` is the word alone, as in the paper.",
    )
    synonyms: Literal["shipped", "wordnet"] = Field(
        default="shipped",
        description="Synonyms for mode: synonyms: the small list that comes with mmpo, or WordNet, where nltk and its "
        "data are installed.",
    )
    lexicon: Annotated[Path | None, LEXICON] = Field(
        default=None,
        description="Your own synonyms, a JSON or YAML map of word to list of words; they go before the others.",
    )


class DisturbanceSettings(Settings):
    """The perturbation of the whole sequence for tars_official, by the released code's rules. The last four settings
    correct errors of that code; false does as it does."""

    mode: Literal["mask", "replace"] = Field(default="replace", description="A mask token, or a random token.")
    relevance: Annotated[str, SIMILARITY] = Field(default="policy", description="As in `perturbation`.")
    template: str = Field(default="{}", pattern=r"\{\}", description="As in `perturbation`.")
    rate: float = Field(default=0.05, gt=0, lt=1, description="Share of a sequence's tokens that is drawn.")
    in_place: bool = Field(
        default=True, description="Every token keeps its own similarity; false: the list is sorted, and loses places."
    )
    keep_image: bool = Field(default=True, description="The image is never drawn; false: a draw removes it.")
    uniform: bool = Field(
        default=True, description="Where no score is left, all ordinary tokens are as likely; false: that is an error."
    )
    keep_attention: bool = Field(
        default=True,
        description="Masked tokens are attended to; false: where the mask is the padding they are taken out, and "
        "positions close up.",
    )
