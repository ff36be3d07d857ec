"""Drift on shipped prompts and texts: what the model is asked beside its benchmarks, kept in `drift.jsonl`.

    fixed texts    ─▶ log-probs, adapter off and on     ─▶ perplexity, bits a byte
    neutral prompts ─▶ base's answers, tuned samples    ─▶ KL(base || tuned), KL(tuned || base)

A row is written as soon as it is known, under a key of everything that decides it; a run that was killed goes on, and
one that knows all loads no model. What is computed in one batch (the answers to the prompts, the texts after one
prompt) is computed again whole where a row is missing: a stopped evaluation ends with the same digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo.errors import UserError
from mmpo.eval.answers import AnswerCache, AnswerLog
from mmpo.eval.collecting import AskedModel
from mmpo.eval.drift.settings import DriftSettings
from mmpo.eval.drift.texts import CAPTION_PROMPT, NEUTRAL_PROMPTS, SENTENCES, TEXT_PROMPT, NeutralPrompt, sentence_id
from mmpo.eval.drift.training_texts import pair_folders, seen
from mmpo.eval.pictures import Pictures
from mmpo.eval.protocol import Request
from mmpo.eval.statistics.drift import Unmeasured
from mmpo.progress import task

if TYPE_CHECKING:
    from mmpo.eval.drift.scoring import AnswerDivergence, DriftScorer, ShownPrompt

FILE = "drift.jsonl"
VERSION = 1
"""Part of each key: raise it with a change of the shipped prompts or of what is computed."""
TEXTS, KL = "perplexity of ordinary texts", "KL to base"


@dataclass(frozen=True)
class FixedText:
    """A text of which the log-prob is taken, as the answer to `request`, which shows a picture or none."""

    id: str
    text: str
    request: Request


@dataclass(frozen=True)
class TextRow:
    """A fixed text's summed log-prob without and with the adapter, over its tokens."""

    id: str
    before: float
    after: float
    tokens: int
    utf8_bytes: int
    caption: bool


@dataclass(frozen=True)
class KLRow:
    """One answer to a neutral prompt: divergence and k3 estimate (None: no sample), nats, summed over its tokens."""

    id: str
    kl: float
    k3: float | None
    tokens: int


@dataclass
class Measured:
    """What the model said of fixed texts and neutral prompts, and what could not be measured."""

    texts: list[TextRow] = field(default_factory=list)
    forward: list[KLRow] = field(default_factory=list)
    reverse: list[KLRow] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    unmeasured: list[Unmeasured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def measure(model: AskedModel, pictures: Pictures, requests: Sequence[Request], run_dir: Path) -> Measured:
    """Measure what `eval.drift` asks for. A part that this model can't be asked for is left out, with the reason."""
    settings, found = model.settings.drift, Measured()
    why = "there is no adapter to switch off: one model was asked, and there is nothing to compare it with"
    if model.adapter is not None:
        why = "the model without its adapter was not asked (eval.compare: none)"
    if model.settings.before:
        why = "another model stands before (eval.before): the two are never in memory together"
    if model.settings.sampler is not None:
        why = "a server answers (eval.sampler): the log-probs of given texts are this process's models' alone"
    alone = "before" not in model.states or bool(model.settings.before or model.settings.sampler)
    parts: list[tuple[str, bool, str, Callable[[_Log], None]]] = [
        (TEXTS, settings.texts, "texts", lambda log: _texts(log, pictures, found)),
        (KL, settings.kl, "kl", lambda log: _kl(log, pictures, requests, found)),
    ]
    with ExitStack() as stack:
        log: _Log | None = None
        for what, wanted, key, part in parts:
            if not wanted or alone:
                reason = why if wanted else f"switched off (eval.drift.{key})"
                found.unmeasured.append(Unmeasured(what=what, why=reason))
                continue
            log = log or _Log(model, run_dir, stack)
            try:
                part(log)
            except UserError as error:
                found.unmeasured.append(Unmeasured(what=what, why=error.message))
        if log is not None and log.grey:
            found.notes.append("prompts without a picture: shown with a plain grey one, the family takes none without")
    return found


def _texts(log: _Log, pictures: Pictures, found: Measured) -> None:
    fixed, notes = _fixed_texts(log, pictures)
    keys = {
        (state, one.id): log.key("text", adapter, pictures.fingerprint(one.request), one.request.prompt, one.text)
        for state, (_, adapter) in log.model.states.items()
        for one in fixed
    }
    together: dict[Request, list[FixedText]] = {}
    for one in fixed:
        together.setdefault(one.request, []).append(one)
    missing = [
        (state, request, texts)
        for state in log.model.states
        for request, texts in together.items()
        if any(keys[state, one.id] not in log for one in texts)
    ]
    if missing:
        with task("drift: ordinary texts", sum(len(texts) for *_, texts in missing)) as running:
            for state, request, texts in missing:
                shown = log.shown(request, pictures)
                scored = log.scorer.texts(shown, [one.text for one in texts], base=state == "before")
                for one, found_here in zip(texts, scored, strict=True):
                    row: dict[str, Any] = {"state": state, "id": one.id, "prompt": request.prompt, "answer": one.text}
                    row |= {"logp": found_here.logp, "tokens": found_here.tokens}
                    if keys[state, one.id] not in log:
                        log.add(keys[state, one.id], row, plain=not shown.images)
                    running.advance()
    for one in fixed:
        before, after = (log[keys[state, one.id]] for state in ("before", "after"))
        size = len(one.text.encode())
        caption = one.request.image is not None
        found.texts.append(TextRow(one.id, before["logp"], after["logp"], after["tokens"], size, caption))
    found.notes += notes


def _fixed_texts(log: _Log, pictures: Pictures) -> tuple[list[FixedText], list[str]]:
    """The shipped sentences and captions of annotated pictures, none of them from the training pairs; and notes."""
    settings = log.model.settings.drift
    sentences = [
        FixedText(sentence_id(place), text, Request(None, TEXT_PROMPT, 1)) for place, text in enumerate(SENTENCES)
    ]
    captions = [
        FixedText(f"caption {image.path}", image.captions[0].strip(), Request(image.path, CAPTION_PROMPT, 1))
        for image in pictures.annotated or ()
        if image.captions and image.captions[0].strip()
    ]
    if not settings.captions:
        captions = []
    folders = pair_folders(log.run_dir, Path(str(log.model.settings.adapter)))
    learnt = seen((one.text for one in (*sentences, *captions)), folders)
    kept = [one for one in sentences if one.text not in learnt]
    shown = [one for one in captions if one.text not in learnt][: settings.captions]
    checked = "the training pairs are not known here, so the texts were not checked against them"
    if folders:
        checked = f"none is a text of the training pairs ({len(learnt):,} that are were left out)"
    about = f', and the captions of {len(shown):,} pictures as answers to "{CAPTION_PROMPT}"' if shown else ""
    return [*kept, *shown], [
        f'ordinary texts: {len(kept)} shipped sentences as answers to "{TEXT_PROMPT}"{about}; {checked}'
    ]


def _kl(log: _Log, pictures: Pictures, requests: Sequence[Request], found: Measured) -> None:
    settings = log.model.settings.drift
    asked = neutral(pictures, requests)
    _, adapter = log.model.states["after"]
    for forward in (True, False):
        kind: list[Any] = ["forward"] if forward else ["reverse", settings.seed]
        keys = [
            log.key(kind, adapter, pictures.fingerprint(request), request.prompt, settings.max_new_tokens)
            for _, request in asked
        ]
        if any(key not in log for key in keys):
            label = "drift: KL to base" + ("" if forward else ", samples")
            with task(label):
                shown = [log.shown(request, pictures) for _, request in asked]
                answers = _diverged(log.scorer, shown, settings, forward)
                for key, (prompt, request), one, said in zip(keys, asked, shown, answers, strict=True):
                    row: dict[str, Any] = {"way": kind[0], "id": prompt.id, "image": request.image}
                    row |= {"prompt": prompt.text, "answer": said.text}
                    row |= {"kl": said.kl, "k3": said.k3, "tokens": said.tokens}
                    if key not in log:
                        log.add(key, row, plain=not one.images)
        rows = [
            KLRow(prompt.id, log[key]["kl"], log[key]["k3"], log[key]["tokens"])
            for key, (prompt, _) in zip(keys, asked, strict=True)
        ]
        (found.forward if forward else found.reverse).extend(rows)
    found.prompts = [prompt.id + (f" ({request.image})" if request.image else "") for prompt, request in asked]
    found.notes.append(
        f"KL to base: nats a token over the full vocabulary, on answers of at most {settings.max_new_tokens} tokens to "
        f"{len(asked)} shipped prompts: forward on the base's greedy ones, reverse on samples of the tuned model (seed "
        f"{settings.seed})"
    )
    if len(asked) < len(NEUTRAL_PROMPTS):
        why = "the evaluation shows no single pictures"
        found.unmeasured.append(Unmeasured(what=f"{KL} on prompts with a picture", why=why))


def _diverged(
    scorer: DriftScorer, shown: Sequence[ShownPrompt], settings: DriftSettings, forward: bool
) -> list[AnswerDivergence]:
    if forward:
        return scorer.forward_kl(shown, max_new_tokens=settings.max_new_tokens)
    return scorer.reverse_kl(shown, max_new_tokens=settings.max_new_tokens, seed=settings.seed)


def neutral(pictures: Pictures, requests: Sequence[Request]) -> list[tuple[NeutralPrompt, Request]]:
    """The shipped prompts, those about a picture with the first pictures of the evaluation (again from the first where
    there are fewer), or without these prompts where it shows none."""
    places = [Request(image.path, "", 1) for image in pictures.annotated or ()]
    places += [one for one in requests if one.image and not one.more and one.frames is None]
    usable = (one for one in places if not pictures.problem(one))
    wanted = sum(prompt.image for prompt in NEUTRAL_PROMPTS)
    different = {pictures.fingerprint(one): one for one in _first_of(usable, wanted, pictures)}
    shown = cycle(different.values())
    return [
        (prompt, Request(at.image, prompt.text, 1, at.root) if at else Request(None, prompt.text, 1))
        for prompt in NEUTRAL_PROMPTS
        if different or not prompt.image
        for at in [next(shown) if prompt.image else None]
    ]


def _first_of(requests: Iterable[Request], wanted: int, pictures: Pictures) -> Iterable[Request]:
    known: set[str] = set()

    def new(request: Request) -> bool:
        fingerprint = pictures.fingerprint(request)
        return fingerprint not in known and not known.add(fingerprint)  # type: ignore[func-returns-value]

    return islice(filter(new, requests), wanted)


class _Log:
    """Rows by key: of this run, of earlier ones in the cache, and new ones."""

    def __init__(self, model: AskedModel, run_dir: Path, stack: ExitStack) -> None:
        self.model, self.run_dir = model, run_dir
        self._rows = stack.enter_context(AnswerLog(run_dir / FILE))
        cache = model.settings.cache
        self._cache = stack.enter_context(AnswerCache(Path(cache) / "drift")) if cache else None
        self.grey = False

    @cached_property
    def scorer(self) -> DriftScorer:
        from mmpo.eval.drift.scoring import DriftScorer

        return DriftScorer(self.model.vlm, token_budget=self.model.settings.tokens_per_batch)

    def key(self, kind: Any, adapter: str | None, *parts: Any) -> str:
        decided = [VERSION, kind, self.model.fingerprint, adapter, self.model.weights, *parts]
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:32]

    def __contains__(self, key: str) -> bool:
        if key not in self._rows and self._cache is not None and key in self._cache:
            self._rows.add(dict(self._cache[key]))
        return key in self._rows

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        row = self._rows[key]
        self.grey = self.grey or bool(row["grey"])
        return row

    def add(self, key: str, row: Mapping[str, Any], *, plain: bool) -> None:
        whole = {"key": key, **row, "grey": plain and self.scorer.grey}
        self._rows.add(whole)
        if self._cache is not None:
            self._cache.add(whole)

    def shown(self, request: Request, pictures: Pictures) -> ShownPrompt:
        from mmpo.eval.drift.scoring import ShownPrompt

        return ShownPrompt(request.prompt, tuple(pictures.shown(request)))
