"""Types that pass between a benchmark (`mmpo.eval.task`) and the harness: requests, responses and scored parts.

A benchmark never sees a model. It makes requests, the harness hands the responses back, and intervals, tests and tables
are made from what the benchmark counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.errors import UserError
from mmpo.eval.statistics.tally import Tally
from mmpo.text.vocabulary import ObjectVocabulary


@dataclass(frozen=True)
class FrameChoice:
    """The choice of a video's frames (`mmpo.video.sampling`), and the limit of their longer side."""

    num: int = 8
    sampling: str = "linspace_trunc"
    max_side: int | None = 336


@dataclass(frozen=True)
class Request:
    """One greedy question; two equal ones are asked once.

    `image` is a path below `root`, or below the evaluation's own `images` where `root` is None. `image=None` asks
    without a picture. With `frames` the path is a video's, and these frames of it are shown. `more` are further images
    below the same root; tags `<image>` in the prompt say where each of them stands (without tags, before the text).
    """

    image: str | None
    prompt: str
    max_new_tokens: int
    root: str | None = None
    frames: FrameChoice | None = None
    more: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Every image or video of the request."""
        return (*(() if self.image is None else (self.image,)), *self.more)


@dataclass(frozen=True)
class Response:
    """The model's answer; `truncated` if it was cut off at the token limit.

    `p_yes` is the first step's probability of yes against no, `margin` the smallest lead in logits of a chosen token
    over the runner-up; None where it is not known.
    """

    text: str
    truncated: bool
    p_yes: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Grade:
    """How a benchmark takes one answer: the `expected` one, what its parser read (None: nothing), and whether that is
    right (None: nobody can say). `split` is the part that it counts in.
    """

    expected: str
    parsed: str | None
    right: bool | None
    split: str | None = None


class NothingToAsk(UserError):
    """A benchmark cannot ask anything about these images; the others of the evaluation still can."""


@dataclass(frozen=True)
class Part:
    """One scored benchmark, or one split or category of it (`split` is its name).

    `truncated` and `unparsed` count answers (`unparsed` None: nothing is parsed). `total` marks a part that sums up
    others, so that it is no category beside them; a `view` looks at answers of another part from one side, which are
    counted there, and is left out where no state has a question for it. `near_ties` are requests from the function of
    that name, `readable_of` is what `unparsed` is counted of where that is not `questions`.
    """

    split: str | None
    tally: Tally
    questions: int
    truncated: int
    unparsed: int | None = None
    total: bool = False
    view: bool = False
    readable_of: int | None = None
    near_ties: Sequence[Request] | None = None

    @property
    def unreadable(self) -> bool:
        """True if not one answer could be read, so that the numbers say nothing."""
        of = self.questions if self.readable_of is None else self.readable_of
        return self.unparsed is not None and of > 0 and self.unparsed >= of


def cut_off(given: Iterable[tuple[object, Response]]) -> int:
    """The number of these responses that were cut off at the token limit."""
    return sum(response.truncated for _, response in given)


@dataclass
class AnnotatedSet:
    """The evaluation's annotated images that can be opened, with the objects in each by image path, and the vocabulary
    the object names belong to.
    """

    images: list[AnnotatedImage]
    truth: dict[str, tuple[str, ...]]
    vocabulary: ObjectVocabulary
    notes: list[str] = field(default_factory=list)


def require_annotations(annotated: AnnotatedSet | None, benchmark: str, remedy: str = "") -> AnnotatedSet:
    """The evaluation's annotated images, for a benchmark that is built from them. Raises UserError where there are
    none; `remedy` says what else the benchmark could be made of.
    """
    if annotated is None:
        hint = "set eval.images and eval.annotations" + (f", or {remedy}" if remedy else "")
        raise UserError(f"{benchmark} is built from annotated images, and the evaluation names none", hint=hint)
    return annotated
