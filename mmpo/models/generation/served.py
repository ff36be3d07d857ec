"""A model on an OpenAI-compatible server as what answers, in place of one in this process.

    with open_served(sampler, run_dir, load=lambda: load_vlm(folder)) as answerer:
        for answer in answerer.answer([("kitchen.jpg", ["Is there a dog in the image?"])]):
            print(answer.text, answer.p_yes)

The server chooses what is computed together; here requests are kept under way (`mmpo.chat.pacing`), faults are waited
out, and replies kept in `run_dir/sampler/replies.jsonl`, so that nothing is asked twice. A question that stays without
a reply is an empty answer with `failed`, a row of `run_dir/errors.jsonl`, and one of few that may be: see
`SamplerSettings.max_failed`.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmpo.chat import ChatReply, ChatRequest
from mmpo.chat.judging import LASTING
from mmpo.chat.protocol import ReplyToken, request_key
from mmpo.chat.served_models import TOP, gives_log_probs, open_models
from mmpo.chat.server import ServerChat
from mmpo.chat.settings import SamplerSettings
from mmpo.data.records import write_lines
from mmpo.data.video_pairs import in_order, with_frames
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import read_jsonl
from mmpo.files.images import encode_image, portable_image
from mmpo.models.families.interleaved import parts_of
from mmpo.models.families.loading import VLM
from mmpo.models.generation.answer import Answer
from mmpo.models.generation.asking import Asked, Images, ImageSource, Prompt, as_list, flat, source_key
from mmpo.models.generation.self_check import SelfCheck
from mmpo.models.generation.stopping import Stop
from mmpo.text.claims import first_sentence_end
from mmpo.video.clip import Clip

SHORT = 64
"""Answers of at most so many tokens come with log-probs; of longer ones nobody reads P(yes)."""
_REMEMBERED = 16


@dataclass(frozen=True)
class _Wanted:
    """Requests that make one result: the id of a question, or the samples of a prompt."""

    id: str
    requests: tuple[ChatRequest, ...]
    stop: Stop | None = None


class ServedAnswerer:
    """An `Answerer` on a server. Equal questions are asked once. Samples depend on (seed, picture, prompt) and on the
    server, which need not draw the same ones again; what it drew is kept with the run."""

    def __init__(
        self,
        sampler: SamplerSettings,
        chats: Mapping[str, ServerChat],
        errors: ErrorRows,
        *,
        load: Callable[[], VLM],
        max_new_tokens: int = 16,
    ) -> None:
        self.sampler, self.max_new_tokens = sampler, max_new_tokens
        self._chats, self._errors, self._load = chats, errors, load
        self._name = sampler.adapter or sampler.model
        self._several = True  # until a request for n samples brought fewer
        self._recent: OrderedDict[Hashable, tuple[bytes, ...]] = OrderedDict()
        self._asked = self._failed = 0
        self.log_probs = all([gives_log_probs(chat) for chat in chats.values()])

    @cached_property
    def vlm(self) -> VLM:
        return self._load()

    @property
    def checks(self) -> list[SelfCheck]:
        return []

    @property
    def unshared_reason(self) -> str:
        return ""

    def prompt_of(self, text: str) -> Prompt:
        return [{"role": "user", "content": parts_of(text)}]

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """See `Answerer`: the server is asked for `sampler.model`."""
        if self.sampler.adapter is None:
            raise UserError("the server has no adapter to switch off", hint="name it in `sampler.adapter`")
        before, self._name = self._name, self.sampler.model
        try:
            yield
        finally:
            self._name = before

    def answer(
        self,
        asked: Asked,
        *,
        max_new_tokens: int | None = None,
        on_quarantine: Callable[[str, Quarantined], None] | None = None,
        known: Callable[[str], bool] | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Answer]:
        """See `AnswerEngine.answer`."""
        limit = max_new_tokens or self.max_new_tokens

        def wanted() -> Iterator[_Wanted]:
            for question, pictures in flat(asked):
                if known is not None and known(question.id):
                    continue
                try:
                    request = self._request(pictures.images, question.text, limit)
                except Quarantined as reason:
                    if on_quarantine is None:
                        raise
                    on_quarantine(question.id, reason)
                else:
                    yield _Wanted(question.id, (request,), stop)

        return (answer for answers in self._results(wanted(), self._chats[self._name]) for answer in answers)

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
        """See `AnswerEngine.sample_many`."""
        if k < (0 if greedy_first else 1):
            raise UserError(f"k must be at least 1, not {k}")

        def wanted() -> Iterator[_Wanted]:
            for number, (images, prompt) in enumerate(prompts):
                greedy = self._request(images, prompt, max_new_tokens or self.max_new_tokens)
                first = int(hashlib.sha256(f"{seed}/{request_key('', greedy)}".encode()).hexdigest()[:7], 16)
                sampled = replace(greedy, temperature=temperature, top_p=top_p, seed=first, top_logprobs=0)
                single = [replace(sampled, seed=first + j) for j in range(k)]
                drawn = [replace(sampled, n=k)] if self._several and k else single
                yield _Wanted(str(number), (*([greedy] if greedy_first else []), *drawn), stop)

        return self._results(wanted(), self._chats[self._name])

    def _results(self, wanted: Iterator[_Wanted], chat: ServerChat) -> Iterator[list[Answer]]:
        """The answers of each, in order."""
        due: deque[_Wanted] = deque()

        def requests() -> Iterator[ChatRequest]:
            for one in wanted:
                due.append(one)
                yield from one.requests

        replies = chat.replies(requests())
        found: list[Answer] = []
        place = 0
        for reply in replies:
            one = due[0]
            found += self._answers(one, one.requests[place], reply, chat)
            place += 1
            if place == len(one.requests):
                due.popleft()
                yield found
                found, place = [], 0
        self._check_share()

    def _answers(
        self, one: _Wanted, request: ChatRequest, reply: ChatReply | Quarantined, chat: ServerChat
    ) -> list[Answer]:
        """The answers of one request. What failed for a reason that may pass is asked once more, with all its tries."""
        self._asked += 1
        if isinstance(reply, Quarantined) and reply.reason not in LASTING:
            reply = next(chat.replies([request]))
        key = request_key(chat.identity, request)
        if isinstance(reply, Quarantined) and reply.reason != "empty_reply":
            self._failed += 1
            self._errors.add(key, {"model": chat.settings.model, "question": _shown(request), "reason": reply.reason,
                                   "detail": reply.detail})  # fmt: skip
            self._check_share()
            return [_no_answer(one.id, reply.reason)] * request.n
        self._errors.solved(key)
        if isinstance(reply, Quarantined):
            return [_no_answer(one.id, "")] * request.n
        begun = _begun(request)
        answers = [_answer_of(one.id, said, begun, one.stop) for said in (reply, *reply.more)]
        if missing := request.n - len(answers):
            self._several = False
            first = request.seed or 0
            single = [replace(request, n=1, seed=first + request.n - missing + j) for j in range(missing)]
            for each, said in zip(single, chat.replies(single), strict=True):
                answers += self._answers(one, each, said, chat)
        return answers

    def _check_share(self) -> None:
        share = self.sampler.max_failed
        if self._failed > math.ceil(share * self._asked):
            raise UserError(
                f"{self._failed} of {self._asked} questions got no reply from the server, more than {share:.0%} "
                f"({self._errors.path} lists them; the last: {self._errors.last})",
                hint="mend the server and run again: the replies that came are kept. `sampler.max_failed` allows more",
            )

    def _request(self, images: Images, prompt: Prompt, limit: int) -> ChatRequest:
        """The greedy request for a prompt. Raises `Quarantined` for a picture that can't be used."""
        sources = as_list(images)
        files = [self._files(source) for source in sources]
        kinds = ["video" if isinstance(source, Clip) else "image" for source in sources]
        if isinstance(prompt, str):
            shown: list[str | bytes] = [*(file for own in files for file in own), prompt]
            messages = [("user", tuple(shown) if len(shown) > 1 else prompt)]
        else:
            clips = [len(own) for own, kind in zip(files, kinds, strict=True) if kind == "video"]
            if in_order(prompt, ["image"] * kinds.count("image"), ["video"] * len(clips)) != kinds:
                raise UserError("images and clips must come in the order in which the prompt shows them")
            pictures = iter([file for own in files for file in own])
            messages = [
                (str(message["role"]), _content(message["content"], pictures)) for message in with_frames(prompt, clips)
            ]
        top = TOP if self.log_probs and limit <= SHORT else 0
        return ChatRequest(tuple(messages), max_tokens=limit, top_logprobs=top)

    def _files(self, source: ImageSource) -> tuple[bytes, ...]:
        """The encoded pictures of a source: as they are where every reader gets the same pixels from them, else PNG."""
        key = source_key(source)
        if key not in self._recent:
            several = source.frames if isinstance(source, Clip) else [source]
            self._recent[key] = tuple(
                encode_image(one.convert("RGB")) if isinstance(one, Image.Image) else portable_image(one)
                for one in several
            )
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]


class ErrorRows:
    """`errors.jsonl`: the questions that have no reply. Those that get one in a later run are taken out again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {row["key"]: row for row in read_jsonl(path)} if path.exists() else {}

    @property
    def last(self) -> str:
        """The reason of the last one, in words."""
        row = next(reversed(self._rows.values()), {})
        return f"{row.get('reason')}: {row.get('detail')}"

    def add(self, key: str, row: dict[str, Any]) -> None:
        self._rows[key] = {"key": key, **row}
        write_lines(self.path, self._rows.values())

    def solved(self, key: str) -> None:
        """There is a reply by now."""
        if self._rows.pop(key, None) is not None:
            write_lines(self.path, self._rows.values())


@contextmanager
def open_served(
    sampler: SamplerSettings, run_dir: Path, *, load: Callable[[], VLM], max_new_tokens: int = 16
) -> Iterator[ServedAnswerer]:
    """What the server answers with, for the length of the block. `load` loads the model in this process, for those who
    need its log-probs. Raises `UserError` where the server does not answer, or does not know the names."""
    with ExitStack() as stack:
        chats = open_models(sampler, stack, run_dir / "sampler" / "replies.jsonl")
        errors = ErrorRows(run_dir / "errors.jsonl")
        yield ServedAnswerer(sampler, chats, errors, load=load, max_new_tokens=max_new_tokens)


def yes_no_logps(tokens: Sequence[ReplyToken] | None) -> tuple[float, float] | None:
    """Log-sum-exps over the spellings of yes and of no among the likeliest first tokens. A word that is not among them
    has less than the least likely of these, and counts as that; None where neither is there."""
    if not tokens or not tokens[0].top:
        return None
    top = tokens[0].top
    found = []
    for word in ("yes", "no"):
        spelled = (word, word.capitalize(), word.upper())
        found.append([logp for text, logp in top if text.lstrip(" ▁Ġ") in spelled])
    if not any(found):
        return None
    least = min(logp for _, logp in top)
    yes, no = (float(torch.tensor(own or [least], dtype=torch.float64).logsumexp(0)) for own in found)
    return yes, no


def _answer_of(id: str, reply: ChatReply, begun: str, stop: Stop | None) -> Answer:
    text, stopped = reply.text, False
    if begun and begun[-1] in " \t":
        text = text.lstrip(" \t")
    if stop is not None and (end := first_sentence_end(text)) is not None:
        text, stopped = text[:end], True
    text = text.rstrip() if begun else text.strip()
    tokens = reply.tokens or ()
    leads = [one.top[0][1] - one.top[1][1] for one in tokens if len(one.top) > 1]
    yes, no = yes_no_logps(tokens) or (None, None)
    p_yes = None if yes is None or no is None else 1 / (1 + math.exp(min(700.0, no - yes)))
    margin = min(leads, default=math.inf)
    return Answer(id, text, (), reply.truncated and not stopped, margin, p_yes, yes, no, stopped)


def _no_answer(id: str, reason: str) -> Answer:
    return Answer(id, "", (), False, math.inf, failed=reason)


def _content(content: Any, pictures: Iterator[bytes]) -> str | tuple[str | bytes, ...]:
    if isinstance(content, str):
        return content
    parts = tuple(next(pictures) if part["type"] == "image" else part["text"] for part in content)
    return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else parts


def _begun(request: ChatRequest) -> str:
    role, content = request.messages[-1]
    if role != "assistant":
        return ""
    return content if isinstance(content, str) else "".join(part for part in content if isinstance(part, str))


def _shown(request: ChatRequest) -> str:
    """The last user message in words."""
    content = next(content for role, content in reversed(request.messages) if role == "user")
    pieces = (content,) if isinstance(content, str) else content
    return "".join(part if isinstance(part, str) else "<image>" for part in pieces)
