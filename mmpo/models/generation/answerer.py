"""What answers questions about pictures: the model in this process (`AnswerEngine`), or one on a server
(`ServedAnswerer`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from mmpo.errors import Quarantined

if TYPE_CHECKING:
    from mmpo.models.families.loading import VLM
    from mmpo.models.generation.answer import Answer, Asked, Images, Prompt
    from mmpo.models.generation.self_check import SelfCheck
    from mmpo.models.generation.stopping import Stop


class Answerer(Protocol):
    """Greedy answers and samples, in the order of the questions. `AnswerEngine` documents the parameters."""

    max_new_tokens: int

    @property
    def vlm(self) -> VLM:
        """The model in this process; loaded at its first use where a server answers."""

    @property
    def checks(self) -> list[SelfCheck]:
        """What the self-check found, where there is one."""

    @property
    def unshared_reason(self) -> str:
        """Why questions don't share their image's work; empty where they do, or where a server sees to it."""

    @property
    def log_probs(self) -> bool:
        """True if short answers come with P(yes)."""

    def answer(
        self,
        asked: Asked,
        *,
        max_new_tokens: int | None = None,
        on_quarantine: Callable[[str, Quarantined], None] | None = None,
        known: Callable[[str], bool] | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Answer]:
        """Greedy answers."""

    def sample_many(
        self,
        prompts: Iterable[tuple[Images, Prompt]],
        k: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int | None = None,
        greedy_first: bool = False,
        stop: Stop | None = None,
    ) -> Iterator[list[Answer]]:
        """`k` sampled responses to each prompt."""

    def prompt_of(self, text: str) -> Prompt:
        """A text with tags `<image>` as a prompt that shows the images there."""

    def adapter_off(self) -> AbstractContextManager[None]:
        """Calls made in this block answer with the model as it was before tuning."""
