"""NLVR2, BLINK, Mantis-Eval and MVBench asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.multi_image.settings import FormatName
from mmpo.eval.multiple_choice.metrics import Choice, by_category, read_choices, score
from mmpo.eval.protocol import Ask, FrameChoice, Material, Part, Reply
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.settings import EvalSettings
from mmpo.files.atomic import write_bytes, write_text


class MultipleChoiceBenchmark:
    """Published questions. `partial`: those whose pictures can't be used are left out and counted."""

    partial = True

    def __init__(self, material: Material | None, settings: EvalSettings) -> None:
        own = self.settings = settings.multiple_choice
        if not own.questions:
            raise UserError("multiple_choice needs its questions", hint="set eval.multiple_choice.questions")
        self._root = own.images or str(Path(own.questions[0]).parent)
        self._folder = Path(settings.cache or ".") / "multiple_choice_pictures"
        choices = [choice for path in own.questions for choice in read_choices(own.format, path)]
        self.choices = choices[: settings.limit]
        self._asks = {choice.id: self._ask(choice) for choice in self.choices}
        files = ", ".join(Path(path).name for path in own.questions)
        self.conventions = [
            f"multiple_choice: {own.format}, {len(self.choices)} questions of {files}, with options and "
            f"{own.prompt_suffix!r}, greedy, at most {own.max_new_tokens} tokens; letters read by mmpo's own rule, "
            "unreadable answers count as wrong"
        ]

    def asks(self) -> list[Ask]:
        return list(dict.fromkeys(self._asks.values()))

    def score(self, replies: Mapping[Ask, Reply]) -> list[Part]:
        given = self._answered(replies)
        tally, unread = score([choice for choice, _ in given], [reply.text for _, reply in given])
        return [Part(None, tally, len(given), sum(reply.truncated for _, reply in given), unread)]

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for state, given in replies.items():
            rows = [{"id": choice.id, "answer": reply.text} for choice, reply in self._answered(given)]
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(folder / f"answers_{state}.jsonl", "".join(lines))

    def _answered(self, replies: Mapping[Ask, Reply]) -> list[tuple[Choice, Reply]]:
        return [(c, replies[self._asks[c.id]]) for c in self.choices if self._asks[c.id] in replies]

    def _ask(self, choice: Choice) -> Ask:
        own = self.settings
        prompt = choice.prompt + (own.prompt_suffix if choice.options else "")
        if choice.video is not None:
            return Ask(choice.video, prompt, own.max_new_tokens, self._root, FrameChoice(own.frames))
        embedded = any(isinstance(image, bytes) for image in choice.images)
        names = [image if isinstance(image, str) else self._kept(image) for image in choice.images]
        root = str(self._folder) if embedded else self._root
        return Ask(names[0] if names else None, prompt, own.max_new_tokens, root, more=tuple(names[1:]))

    def _kept(self, data: bytes) -> str:
        """The name of a file with a picture that came inside the question file."""
        name = hashlib.sha256(data).hexdigest()[:24]
        if not (self._folder / name).exists():
            write_bytes(self._folder / name, data)
        return name


def _scored(format: FormatName, request: ScoreRequest) -> Scored:
    assert request.questions is not None
    paths = sorted(request.questions.glob("*.json*")) if request.questions.is_dir() else [request.questions]
    choices = [choice for path in paths for choice in read_choices(format, path)]
    known = {choice.id for choice in choices}
    answers: dict[str, str] = {}
    strangers = read = 0
    for where, row in read_records(request.answers):
        read += 1
        name = next((str(row[key]) for key in ("id", "idx", "identifier") if key in row), None)
        if name is None:
            raise UserError(f"{where}: no `id`; the record has {', '.join(row)}")
        if name in answers:
            raise UserError(f"{where}: a second answer to {name}")
        if name in known:
            answers[name] = text_of(row, ("answer", "prediction", "pred", "text"), where)
        else:
            strangers += 1
    asked: Sequence[Choice] = [choice for choice in choices if choice.id in answers]
    if not asked:
        raise UserError(f"{request.answers}: no answer belongs to a question of {request.questions}")
    texts = [answers[choice.id] for choice in asked]
    tally, unread = score(asked, texts)
    metrics: dict[str, object] = {**tally.values}
    categories = by_category(asked, texts)
    if categories:
        metrics["mean_over_categories"] = sum(categories.values()) / len(categories)
        metrics["categories"] = categories
    left = len(choices) - len(asked)
    return Scored(
        metrics=metrics,
        conventions=[
            f"{format}: fractions; an option is read from its letter, else from its text; unreadable counts as wrong"
        ],
        read=read,
        scored=len(asked),
        unparsed=unread,
        quarantined={"the question is not in the file": strangers} if strangers else {},
        warnings=[f"{left} of {len(choices)} questions have no answer"] if left else [],
    )


def _register(format: FormatName) -> Callable[[ScoreRequest], Scored]:
    @scorer(format, needs=("questions",))
    def score_format(request: ScoreRequest) -> Scored:
        """Answers as rows of `id` and `answer`."""
        return _scored(format, request)

    return score_format


SCORED: dict[FormatName, Callable[[ScoreRequest], Scored]] = {
    name: _register(name) for name in ("nlvr2", "blink", "mantis_eval", "mvbench")
}
