"""A model to ask and to score with: `load`, `ask`, `score`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from mmpo.api.answers import Answers, PhotoAnswer, is_yes_no
from mmpo.api.photos import Photo, photos_of, questions_of
from mmpo.errors import UserError

if TYPE_CHECKING:
    from mmpo.api.pairs import Pairs
    from mmpo.api.scores import PairScores
    from mmpo.models.families.loading import VLM
    from mmpo.models.generation.answer import AnswerEngine

MAX_NEW_TOKENS = 128
BATCH_PAIRS = 8


class Model:
    """A loaded model, with its adapter where it has one. Made by `mmpo.load`.

    Use it in a `with` block, or `close` it, to give its memory back. `vlm` is what the rest of mmpo calls it: the
    Hugging Face (or peft) model, its processor and the record of its family.
    """

    def __init__(self, vlm: VLM, adapter: str | None, options: dict[str, Any]) -> None:
        self._vlm: VLM | None = vlm
        self.source, self.adapter, self._options = vlm.source, adapter, options
        self._engine: AnswerEngine | None = None

    @property
    def vlm(self) -> VLM:
        """The loaded model itself. Raises `UserError` once it is closed."""
        if self._vlm is None:
            raise UserError(f"{self.source}: the model is closed", hint="mmpo.load it again")
        return self._vlm

    def ask(
        self,
        photos: Photo | Sequence[Photo],
        questions: str | Sequence[str],
        *,
        together: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Answers:
        """Greedy answers to every question about every photo; with an adapter, before (adapter off) and after.

        Args:
            photos: one or several paths, encoded images as bytes, or PIL images.
            questions: one or several; all that concern a photo share its work.
            together: show all photos at once, and ask each question once about them all.
            max_new_tokens: longest answer, in tokens; longer ones are cut off and marked `truncated`.

        Returns: a `PhotoAnswer` for each photo and question, photos first. For a question of yes or no it has P(yes)
        against no at the first token.

        Raises: `UserError` for photos that are missing or no images (all at once), and for questions without text.
        """
        shown, asked = photos_of(photos), questions_of(questions)
        if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be a whole number of at least 1, not {max_new_tokens!r}")
        engine = self._answering()
        if together:
            groups: list[tuple[str, Any]] = [(" + ".join(one.name for one in shown), [one.image for one in shown])]
        else:
            groups = [(one.name, one.image) for one in shown]
        places = [(name, question) for name, _ in groups for question in asked]
        queue = [(image, asked) for _, image in groups]
        found = []
        if self.adapter is None:
            after = list(engine.answer(queue, max_new_tokens=max_new_tokens))
            both: Iterator[Any] = zip([None] * len(after), after, strict=True)
        else:
            both = engine.before_after(queue, max_new_tokens=max_new_tokens)
        for (name, question), (before, now) in zip(places, both, strict=True):
            said = [one.text for one in (before, now) if one is not None]
            found.append(PhotoAnswer(name, question, now, before, is_yes_no(question, *said)))
        return Answers(found)

    def score(
        self,
        pairs: Pairs,
        *,
        images: str | Path | None = None,
        batch_size: int = BATCH_PAIRS,
    ) -> PairScores:
        """Log-probs of chosen and rejected under the policy (the model with its adapter) and the reference (the adapter
        off), in nats, summed over the tokens of each response, its end token included. Without gradient.

        Args:
            pairs: a folder of pairs, `PreferencePair`s, or a `datasets.Dataset` in TRL's form (prompt, chosen,
                rejected, images).
            images: the folder in which image paths of `PreferencePair`s or of a dataset start; by default the current
                one. A folder of pairs is its own.
            batch_size: pairs computed together.

        Returns: `PairScores`, float64 tensors [n] on the CPU in the order of the pairs, and what was left out. A model
        without an adapter has no reference.

        Raises: `UserError` for pairs that break the format, and where none can be scored.
        """
        from mmpo.api.scores import score_pairs

        return score_pairs(self.vlm, pairs, images=images, batch_size=batch_size, reference=self.adapter is not None)

    def close(self) -> None:
        """Give the memory of the weights back. Asked or scored with afterwards, the model says that it is closed."""
        import gc

        import torch

        self._vlm, self._engine = None, None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def lent(self) -> Iterator[dict[str, Any]]:
        """Inside the block, work that would load this model from its folder gets this one. Yields the settings that
        name it in a recipe's section: model, adapter, dtype, quantize, trust_remote_code and video_input."""
        from mmpo.models.live import lent

        with lent(self.vlm, adapter=self.adapter, **self._options):
            yield {"model": self.source, "adapter": self.adapter, **self._options}

    def _answering(self) -> AnswerEngine:
        from mmpo.models.generation.answer import AnswerEngine

        if self._engine is None:
            self._engine = AnswerEngine(self.vlm)
        self.vlm.model.eval()
        return self._engine

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._vlm is None:
            return f"<Model {self.source}, closed>"
        adapter = f" with adapter {self.adapter}" if self.adapter else ""
        return f"<Model {self.source}{adapter}: {self._vlm.family.name}, {self._vlm.dtype}, {self._vlm.device}>"


def load(
    model: str | Path,
    adapter: str | Path | None = None,
    *,
    dtype: Literal["float32", "bfloat16", "auto"] = "auto",
    quantize: Literal["none", "nf4"] = "none",
    device: str | None = None,
    video_input: Literal["auto", "native", "frames"] = "auto",
    trust_remote_code: bool = False,
    allow_network: bool = False,
) -> Model:
    """Load a vision-language model, and an adapter that was trained on it.

    Args:
        model: a folder, or a Hugging Face name that is in the local cache.
        adapter: the folder of a LoRA adapter (`RUN/train/adapter`); None for the model as it is.
        dtype: number format of the weights; "auto" is the model's own.
        quantize: "nf4" keeps the decoder's weights in four bits, for QLoRA (Dettmers et al. 2023, arXiv:2305.14314).
        device: for example "cuda:1" or "cpu"; by default the first GPU, else the CPU.
        video_input: whether a video is shown as one or as its frames.
        trust_remote_code: let the model's folder run its own Python code.
        allow_network: let the model be fetched from the hub. Without it nothing leaves this machine.

    Returns: a `Model`, to `ask`, to `score` with, and for `mmpo.evaluate`.

    Raises: `UserError` for a model or an adapter that is missing, damaged, a pickle, or doesn't fit the other.
    """
    from mmpo.models.folder import check_adapter, check_fit, find_model

    for name, given in (("model", model), ("adapter", adapter)):
        if not isinstance(given, str | Path) and not (name == "adapter" and given is None):
            raise UserError(f"{name} must be a path or a name, not {type(given).__name__}")
    source, own = str(model), None if adapter is None else str(adapter)
    if own is not None:  # before the weights are read
        check_adapter(own)
        if (folder := find_model(source)) is not None:
            check_fit(own, folder, source)
    from mmpo.models.families.loading import load_vlm

    options: dict[str, Any] = {
        "dtype": dtype, "quantize": quantize, "video_input": video_input, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    vlm = load_vlm(source, adapter=own, device=device, allow_network=allow_network, **options)
    return Model(vlm, own, options)


@contextmanager
def opened(model: Model | str | Path, adapter: str | Path | None = None, **options: Any) -> Iterator[Model]:
    """The model itself where it is loaded already; else loaded for the block. Raises `UserError` for an adapter or
    options beside a loaded model."""
    if isinstance(model, Model):
        if adapter is not None or options:
            named = ", ".join((["adapter"] if adapter is not None else []) + list(options))
            raise UserError(f"{named}: given beside a loaded model", hint=f"mmpo.load(…, {named.split(', ')[0]}=…)")
        yield model
        return
    with ExitStack() as stack:
        yield stack.enter_context(load(model, adapter, **options))


def ask(
    model: Model | str | Path,
    photos: Photo | Sequence[Photo],
    questions: str | Sequence[str],
    *,
    adapter: str | Path | None = None,
    together: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    **options: Any,
) -> Answers:
    """Ask a loaded model, or one that is loaded for this call; with an adapter, before and after side by side.

    `options` are those of `mmpo.load`. See `Model.ask`. Photos and questions are looked at before a model is loaded.

    Raises: `UserError` as `load` and `Model.ask` do.
    """
    photos_of(photos), questions_of(questions)
    with opened(model, adapter, **options) as one:
        return one.ask(photos, questions, together=together, max_new_tokens=max_new_tokens)


def score(
    model: Model | str | Path,
    pairs: Pairs,
    *,
    adapter: str | Path | None = None,
    images: str | Path | None = None,
    batch_size: int = BATCH_PAIRS,
    **options: Any,
) -> PairScores:
    """Log-probs of pairs under a loaded model, or one that is loaded for this call: policy and reference, in nats.

    `options` are those of `mmpo.load`. See `Model.score` for shapes and what is left out.

    Raises: `UserError` as `load` and `Model.score` do.
    """
    with opened(model, adapter, **options) as one:
        return one.score(pairs, images=images, batch_size=batch_size)
