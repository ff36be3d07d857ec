"""The preference pair: one prompt over images or videos, a better and a worse response. The currency of every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from mmpo.data.spans import Span, TextPart, check_parts, check_spans, is_number, short
from mmpo.errors import UserError
from mmpo.files.paths import is_relative_path

Message = dict[str, Any]
"""`{"role": …, "content": [part, …]}`; parts are `{"type": "text", "text": …}`, `{"type": "image" | "video"}`."""

Video = dict[str, Any]
"""`{"frames": [bytes | str, …], "times": [seconds, …]}`, or `{"path": str}` for a file relative to the dataset."""

PROMPT_ROLES = ("system", "user", "assistant")
PLACEHOLDERS = ("<image>", "<video>")
HALF_CHARACTER_HINT = "a surrogate without its other half, as in a JSON text cut in the middle; it can't be written"
NO_PLACEHOLDER_HINT = 'images stand in the content as {"type": "image"} parts, never as a tag in the text'


@dataclass(frozen=True)
class PreferencePair:
    """One preference. `images` fill the prompt's image parts in order; bytes are encoded images, strings are paths.

    A side is one assistant message, or several with the user's messages between them: assistant, user, assistant … Its
    text is that of its assistant messages, one after another; places in it count so.

    `rejected_images` are given where the rejected side sees other images. Weights are spans over a response's text; a
    character that no span covers weighs 1. `image_weights` take the place of the chosen ones where the answer is
    compared with itself under another image. Parts are steps and segments of a response that somebody scored.
    `unfinished` responses go on behind their end: no end token is learnt.
    `twin` is the id of the pair that shows a similar image. `scores` hold what the builder measured, `provenance` where
    the pair is from; training reads neither.
    """

    id: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    images: list[bytes | str] = field(default_factory=list)
    rejected_images: list[bytes | str] | None = None
    videos: list[Video] | None = None
    chosen_weights: list[Span] | None = None
    rejected_weights: list[Span] | None = None
    image_weights: list[Span] | None = None
    chosen_parts: list[TextPart] | None = None
    rejected_parts: list[TextPart] | None = None
    unfinished: bool = False
    twin: str | None = None
    scores: dict[str, float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def simple(
        cls,
        *,
        id: str,
        image: bytes | str,
        question: str,
        chosen: str,
        rejected: str,
        rejected_image: bytes | str | None = None,
        chosen_weights: list[Span] | None = None,
        rejected_weights: list[Span] | None = None,
        scores: dict[str, float] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> PreferencePair:
        """The commonest case: one question about one image."""
        return cls(
            id=id,
            prompt=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            chosen=[text_message("assistant", chosen)],
            rejected=[text_message("assistant", rejected)],
            images=[image],
            rejected_images=None if rejected_image is None else [rejected_image],
            chosen_weights=chosen_weights,
            rejected_weights=rejected_weights,
            scores=scores,
            provenance=dict(provenance or {}),
        )

    @property
    def prompt_text(self) -> str:
        """The prompt's text parts, one after another, without roles; for people and for searching, not for a model."""
        return join_text(self.prompt)

    @property
    def chosen_text(self) -> str:
        """The text of the assistant's messages."""
        return answer_text(self.chosen)

    @property
    def rejected_text(self) -> str:
        """As `chosen_text`."""
        return answer_text(self.rejected)


def text_message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def content_parts(messages: Sequence[Mapping[str, Any]], kind: str) -> Iterator[Mapping[str, Any]]:
    """The parts of one type (`image`, `video`, `text`) in order."""
    for message in messages:
        for part in message["content"]:
            if part["type"] == kind:
                yield part


def placeholder_in(text: str) -> str:
    """The media tag in `text`, else nothing. No pair may hold one in its text: a reader of the dataset would look for
    a picture there. Models do write them."""
    return next((tag for tag in PLACEHOLDERS if tag in text), "")


def join_text(messages: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part["text"] for part in content_parts(messages, "text"))


def answer_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a response: that of its assistant messages, one after another."""
    return join_text([message for message in messages if message["role"] == "assistant"])


def validate(pair: PreferencePair, where: str = "pair") -> PreferencePair:
    """The pair itself if it keeps every rule, else UserError "`where`: what is wrong". `where` names file and row."""
    where = check_id(pair.id, where)
    _check_messages(pair.prompt, "prompt", where, roles=PROMPT_ROLES, kinds=("image", "video", "text"))
    roles = [message["role"] for message in pair.prompt]
    if roles[-1] == "system" or (roles[-1] == "assistant" and roles[-2:-1] != ["user"]):
        raise UserError(
            f"{where}: the prompt must end with a user message, or with the beginning of the answer to one",
            hint="an assistant message at the end is what both responses continue",
        )
    if roles[-1] == "assistant" and not join_text(pair.prompt[-1:]):
        raise UserError(f"{where}: the answer that both responses continue is empty", hint="leave it out")
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        _check_response(response, side, where)
    columns = {"images": pair.images}
    if pair.rejected_images is not None:
        columns["rejected_images"] = pair.rejected_images
    check_shown(pair.prompt, columns, pair.videos, where)
    same_input = pair.rejected_images is None or pair.rejected_images == pair.images
    if same_input and _said(pair.chosen) == _said(pair.rejected):
        raise UserError(f"{where}: chosen and rejected are the same", hint="drop the row; it holds no preference")
    check_spans(pair.chosen_weights, pair.chosen_text, f"{where}: `chosen_weights`")
    check_spans(pair.rejected_weights, pair.rejected_text, f"{where}: `rejected_weights`")
    check_spans(pair.image_weights, pair.chosen_text, f"{where}: `image_weights`")
    aspects = check_parts(pair.chosen_parts, pair.chosen_text, f"{where}: `chosen_parts`")
    others = check_parts(pair.rejected_parts, pair.rejected_text, f"{where}: `rejected_parts`")
    if None not in (aspects, others) and aspects != others:
        raise UserError(f"{where}: segments of chosen have {aspects} scores, those of rejected {others}")
    if not isinstance(pair.unfinished, bool):
        raise UserError(f"{where}: `unfinished` must be true or false, got {short(pair.unfinished)}")
    if pair.twin is not None and (not isinstance(pair.twin, str) or not pair.twin or not _is_unicode(pair.twin)):
        raise UserError(f"{where}: `twin` must be the id of a pair, got {short(pair.twin)}")
    for name, score in (pair.scores or {}).items():
        if not is_number(score):
            raise UserError(f"{where}: score {name!r} is {score!r}, not a finite number", hint="leave it out or fix it")
    return pair


def check_id(id: Any, where: str) -> str:
    """`where`, with the id of the row in it. UserError for an id that can't be one."""
    if not isinstance(id, str) or not id:
        raise UserError(f"{where}: `id` must be a non-empty string, got {id!r}")
    if not _is_unicode(id):
        raise UserError(f"{where}: `id` {id!r} holds half a character", hint=HALF_CHARACTER_HINT)
    return f"{where} (id {id})"


def check_question(prompt: Any, where: str) -> None:
    """UserError unless the prompt is a conversation that ends with a user message."""
    _check_messages(prompt, "prompt", where, roles=PROMPT_ROLES, kinds=("image", "video", "text"))
    if prompt[-1]["role"] != "user":
        raise UserError(f"{where}: the prompt must end with a user message, not one of {prompt[-1]['role']}")


def check_text(text: Any, at: str) -> None:
    """UserError unless `text` can be what a model says: words, and no tag of a picture."""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{at} must be a text with words, got {short(text)}")
    if not _is_unicode(text):
        raise UserError(f"{at}: {short(text)} holds half a character", hint=HALF_CHARACTER_HINT)
    if tag := placeholder_in(text):
        raise UserError(f"{at}: the text contains {tag!r}", hint=NO_PLACEHOLDER_HINT)


def _check_response(response: Any, side: str, where: str) -> None:
    alone = isinstance(response, list) and len(response) == 1
    _check_messages(response, side, where, roles=("assistant",) if alone else ("assistant", "user"), kinds=("text",))
    if [message["role"] for message in response] != ["assistant", "user"] * (len(response) // 2) + ["assistant"]:
        roles = ", ".join(message["role"] for message in response)
        raise UserError(
            f"{where}: `{side}` must be one assistant message, or several with a user message between them, got {roles}"
        )
    for number, message in enumerate(response):
        if not join_text([message]).strip():
            at = f"`{side}`" if alone else f"`{side}[{number}]`"
            raise UserError(f"{where}: {at} is empty", hint="drop the row; an empty response teaches silence")


def _said(response: Sequence[Mapping[str, Any]]) -> list[str]:
    return [join_text([message]) for message in response]


def _check_messages(messages: Any, column: str, where: str, *, roles: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: `{column}` must be a non-empty list of messages, got {short(messages)}")
    for number, message in enumerate(messages):
        at = f"{where}: `{column}[{number}]`"
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise UserError(f"{at} must have `role` and `content`, got {short(message)}")
        if message["role"] not in roles:
            raise UserError(f"{at}: role {message['role']!r} is not one of {', '.join(roles)}")
        if not isinstance(message["content"], list):
            raise UserError(
                f"{at}: content must be a list of parts, got {short(message['content'])}",
                hint='wrap plain text: [{"type": "text", "text": "…"}]',
            )
        for part in message["content"]:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in kinds:
                raise UserError(f"{at}: part {short(part)} is not of type {', '.join(kinds)}")
            if kind != "text":
                continue
            if not isinstance(part.get("text"), str):
                raise UserError(f"{at}: a text part needs a string `text`, got {short(part)}")
            if not _is_unicode(part["text"]):
                raise UserError(f"{at}: {short(part['text'])} holds half a character", hint=HALF_CHARACTER_HINT)
            if tag := placeholder_in(part["text"]):
                raise UserError(f"{at}: the text contains {tag!r}", hint=NO_PLACEHOLDER_HINT)


def check_shown(
    prompt: Sequence[Message], columns: Mapping[str, Sequence[Any]], videos: Sequence[Video] | None, where: str
) -> None:
    """UserError unless every one of the `columns` of images fills the prompt's image parts, and `videos` those of
    videos, with what can be opened."""
    expected = sum(1 for _ in content_parts(prompt, "image"))
    for column, images in columns.items():
        if len(images) != expected:
            raise UserError(
                f"{where}: the prompt has {expected} image parts, `{column}` has {len(images)} images",
                hint=NO_PLACEHOLDER_HINT,
            )
        for number, image in enumerate(images):
            _check_image(image, f"{where}: `{column}[{number}]`")
    videos = videos or []
    expected = sum(1 for _ in content_parts(prompt, "video"))
    if len(videos) != expected:
        raise UserError(f"{where}: the prompt has {expected} video parts, `videos` has {len(videos)}")
    for number, video in enumerate(videos):
        _check_video(video, f"{where}: `videos[{number}]`")


def _check_video(video: Video, at: str) -> None:
    if video.get("path") is not None:
        return _check_image(video["path"], at)
    frames, times = video.get("frames") or [], video.get("times") or []
    if not frames or len(frames) != len(times):
        raise UserError(f"{at} needs a path, or as many times as frames: {len(frames)} frames, {len(times)} times")
    if not all(is_number(time) for time in times) or any(a > b for a, b in pairwise(times)):
        raise UserError(f"{at}: the frame times must be finite and ascending")
    for frame in frames:
        _check_image(frame, at)


def _check_image(image: Any, at: str) -> None:
    if not isinstance(image, (bytes, str)) or not image:
        raise UserError(f"{at} must be encoded bytes or a path, got {short(image)}")
    if isinstance(image, str) and not is_relative_path(image):
        raise UserError(f"{at}: {image!r} leaves the dataset", hint="use a path inside the dataset's folder, or bytes")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
