"""Responses of every model state: from the run's log, from the cache of earlier runs, or from the model."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmpo.claims import alone, remove_claims, shared_out
from mmpo.errors import UserError
from mmpo.eval.answers import AnswerCache, AnswerLog, answer_key, folder_fingerprint, model_folder
from mmpo.eval.pictures import Pictures
from mmpo.eval.protocol import Request, Response
from mmpo.eval.settings import EvalSettings
from mmpo.files.atomic import read_json, write_json, write_text
from mmpo.models.folder import check_adapter
from mmpo.progress import task
from mmpo.team import all_logs, current, own_log

if TYPE_CHECKING:
    from mmpo.models.families.loading import VLM
    from mmpo.models.generation.answer import Answer, AnswerEngine
    from mmpo.models.generation.answerer import Answerer

ModelState = Literal["before", "after"]
Responses = dict[ModelState, dict[Request, Response]]
Keys = Mapping[tuple[ModelState, Request], str]

ENGINE = "engine.json"
CLAIMS = "asking"
ASKED = ".asked"
"""In the folder of an evaluation: how many answers there will be."""
BLOCK = 32
"""Pictures that are asked about together, by one member of a team; batches are formed within. It decides the last
digits of probabilities, so that they don't depend on who asks."""


class AskedModel:
    """The model of an evaluation, known by its files and loaded when it is first asked."""

    def __init__(self, settings: EvalSettings) -> None:
        self.settings = settings

    @cached_property
    def fingerprint(self) -> str:
        """Of the contents of the model's files; of a server its identity."""
        if (sampler := self.settings.sampler) is not None:
            from mmpo.chat.served_models import served_identity

            return served_identity(sampler, sampler.model)
        return folder_fingerprint(model_folder(self.settings.model))

    @cached_property
    def adapter(self) -> str | None:
        """The fingerprint of the adapter's files, None without one. Raises UserError where it is no adapter."""
        if (sampler := self.settings.sampler) is not None:
            from mmpo.chat.served_models import served_identity

            return sampler.adapter and served_identity(sampler, sampler.adapter)
        if not self.settings.adapter:
            return None
        check_adapter(self.settings.adapter)
        return folder_fingerprint(Path(self.settings.adapter))

    @property
    def weights(self) -> str:
        """The number format of the weights; a server has its own."""
        if self.settings.sampler is not None:
            return "served"
        dtype, quantize = self.settings.dtype, self.settings.quantize
        return dtype if quantize == "none" else f"{dtype} {quantize}"

    @property
    def states(self) -> dict[ModelState, tuple[str, str | None]]:
        """The states that are asked: fingerprints of the model's files and, where it is on, of the adapter's."""
        states: dict[ModelState, tuple[str, str | None]] = {"after": (self.fingerprint, self.adapter)}
        if not self.settings.compare or not (self.adapter or self.settings.before):
            return states
        other = self.settings.before
        first = folder_fingerprint(model_folder(other)) if other else self.fingerprint
        return {"before": (first, None), **states}

    @cached_property
    def vlm(self) -> VLM:
        """The model with its adapter, in memory."""
        return self._loaded(self.settings.model, self.settings.adapter)

    @contextmanager
    def answering(self, state: ModelState, run_dir: Path) -> Iterator[Answerer]:
        """What answers in this state: the model with its adapter off or on, or the other one that stands before, which
        is gone again behind the block, so that two are never in memory together."""
        if (sampler := self.settings.sampler) is not None:
            from mmpo.models.generation.served import open_served

            wanted = sampler.model_copy(update={"max_failed": 1.0})  # all are asked first; then none may be missing
            with (
                open_served(wanted, run_dir, load=lambda: self.vlm) as served,
                served.adapter_off() if state == "before" and sampler.adapter else nullcontext(),
            ):
                yield served
            return
        if state == "before" and self.settings.before:
            yield self._engine(self._loaded(self.settings.before, None))
            return
        with self._own.adapter_off() if state == "before" else nullcontext():
            yield self._own

    @cached_property
    def _own(self) -> AnswerEngine:
        return self._engine(self.vlm)

    def _engine(self, vlm: VLM) -> AnswerEngine:
        from mmpo.models.generation.answer import AnswerEngine

        return AnswerEngine(vlm, token_budget=self.settings.tokens_per_batch)

    def _loaded(self, model: str, adapter: str | None) -> VLM:
        from mmpo.models.live import loaded

        return loaded(
            model,
            adapter=adapter,
            dtype=self.settings.dtype,
            quantize=self.settings.quantize,
            video_input=self.settings.video_input,
            trust_remote_code=self.settings.trust_remote_code,
        )


def collect_responses(requests: Sequence[Request], pictures: Pictures, model: AskedModel, run_dir: Path) -> Responses:
    """The responses to all requests, by model state; the model is asked what is not answered yet. Two requests with the
    same picture and words are asked once, whatever the picture is called.

    Every answer is in `run_dir/answers.jsonl` in the end; the setting `cache` names a folder where other runs find them
    too.
    """
    settings, states = model.settings, model.states
    keys = {
        (state, request): answer_key(
            *asked, model.weights, pictures.fingerprint(request), request.prompt, request.max_new_tokens
        )
        for state, asked in states.items()
        for request in requests
    }
    with ExitStack() as stack:
        answers = stack.enter_context(AnswerLog(run_dir / "answers.jsonl"))
        cache = stack.enter_context(AnswerCache(Path(settings.cache))) if settings.cache else None
        every: dict[ModelState, list[Request]] = {}
        for state in states:
            wanted: dict[str, Request] = {}
            for request in requests:
                wanted.setdefault(keys[state, request], request)
            for key, request in wanted.items():
                if key not in answers and cache is not None and key in cache:
                    answers.add({**cache[key], **_names(state, request)})
            every[state] = list(wanted.values())
        if any(keys[state, request] not in answers for state, requests in every.items() for request in requests):
            write_text(run_dir / ASKED, f"{sum(map(len, every.values()))}\n")
            _ask_model(every, keys, pictures, model, answers, cache, own_log(run_dir / ENGINE))
        if current() is not None:
            remove_claims(run_dir / CLAIMS)
            with alone(run_dir):
                blocks = {state: _blocks(asked, pictures) for state, asked in every.items()}
                answers.merge(keys[state, one] for state in states for block in blocks[state] for one in block)
        return {state: {request: _response(answers[keys[state, request]]) for request in requests} for state in states}


def engine_notes(run_dir: Path) -> tuple[list[str], list[str]]:
    """Notes from `engine.json` on how the answers of a run were made: (conventions, warnings)."""
    states: dict[str, Any] = {}
    for path in all_logs(run_dir / ENGINE):
        for state, made in read_json(path).items():
            states[state] = _together(states[state], made) if state in states else made
    if not states:
        return [], []
    alone = {state: made["unshared_reason"] for state, made in states.items() if made["unshared_reason"]}
    different = [f"{state}: {line}" for state, made in states.items() for line in made["different"]]
    warnings = []
    if different:
        warnings.append(f"the self-check found answers that sharing changed ({different[0]}); {ENGINE} lists them")
    if alone:
        reasons = "; ".join(dict.fromkeys(alone.values()))
        warnings.append(f"questions could not share their image's work, which is slow: {reasons}")
    if alone or different or not all(made["asked"] for made in states.values()):
        return [], warnings
    return [
        "answers: questions about an image share its work; some were asked again with nothing shared and gave the "
        f"same ({ENGINE})"
    ], warnings


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What two members of a team noted about a state."""
    sums = ("asked", "near_ties", "different", "answers", "seconds")
    reason = one["unshared_reason"] or other["unshared_reason"]
    return {**{name: one[name] + other[name] for name in sums}, "unshared_reason": reason}


def _response(row: Mapping[str, Any]) -> Response:
    return Response(row["answer"], bool(row["truncated"]), row.get("p_yes"), row.get("margin"))


def _names(state: ModelState, request: Request) -> dict[str, Any]:
    return {
        "state": state,
        "image": request.image,
        **({"more": list(request.more)} if request.more else {}),
        "prompt": request.prompt,
    }


def _ask_model(
    every: Mapping[ModelState, Sequence[Request]],
    keys: Keys,
    pictures: Pictures,
    model: AskedModel,
    answers: AnswerLog,
    cache: AnswerCache | None,
    record: Path,
) -> None:
    for state, requests in every.items():
        known = {request for request in requests if keys[state, request] in answers}
        if len(known) < len(requests):
            with model.answering(state, record.parent) as engine:
                _ask_state(engine, state, every, known, keys, pictures, answers, cache, record)


def _ask_state(
    engine: Answerer,
    state: ModelState,
    every: Mapping[ModelState, Sequence[Request]],
    known: Collection[Request],
    keys: Keys,
    pictures: Pictures,
    answers: AnswerLog,
    cache: AnswerCache | None,
    record: Path,
) -> None:
    missing = len(every[state]) - len(known)
    label = f"asking, {state}" if len(every) > 1 else "asking"
    started, checked, failed = time.monotonic(), len(engine.checks), 0
    blocks = _blocks(every[state], pictures)
    new = [sum(request not in known for request in block) for block in blocks]
    asked = 0

    def made(number: int) -> bool:
        return all(keys[state, request] in answers for request in blocks[number])

    def made_by_now(number: int) -> bool:
        if not made(number):
            answers.look()
        return made(number)

    with task(label, missing) as running, ExitStack() as stack:
        claims = [record.parent / CLAIMS / f"{state}-{number:05d}" for number in range(len(blocks))]
        look = made if current() is None else made_by_now
        mine = stack.enter_context(closing(shared_out(claims, look, lambda number: running.advance(new[number]))))
        for number in mine:
            had = {request for request in blocks[number] if keys[state, request] in answers}
            for request, answer in _answers(engine, blocks[number], had, pictures):
                if answer.failed:
                    failed += 1
                    continue
                row = {
                    "key": keys[state, request],
                    **_names(state, request),
                    "answer": answer.text,
                    "truncated": answer.truncated,
                    "p_yes": answer.p_yes,
                    "margin": answer.margin if math.isfinite(answer.margin) else None,
                }
                answers.add(row)
                if cache is not None:
                    cache.add(row)
                running.advance()
                if asked == 0:
                    _record(record, state, engine, checked, 0, 0.0)
                asked += 1
            answers.sync()
    if failed:
        raise UserError(
            f"{failed} of {missing} questions got no reply from the server ({record.parent / 'errors.jsonl'} lists "
            "them), and before and after must be measured on the same ones",
            hint="mend the server and run again: the answers that came are kept",
        )
    _record(record, state, engine, checked, asked, time.monotonic() - started)


def _blocks(requests: Sequence[Request], pictures: Pictures) -> list[list[Request]]:
    """What is asked together: all about some pictures, of one length limit."""
    found = []
    for limit in sorted({request.max_new_tokens for request in requests}):
        by_image: dict[str, list[Request]] = {}
        for request in requests:
            if request.max_new_tokens == limit:
                by_image.setdefault(pictures.fingerprint(request), []).append(request)
        groups = list(by_image.values())
        found += [
            [request for about in groups[start : start + BLOCK] for request in about]
            for start in range(0, len(groups), BLOCK)
        ]
    return found


def _record(path: Path, state: ModelState, engine: Answerer, checked: int, asked: int, seconds: float) -> None:
    """Add to `engine.json` what the self-check of this run found, and how fast it answered."""
    states: dict[str, Any] = read_json(path) if path.exists() else {}
    old = states.get(state, {"asked": 0, "near_ties": [], "different": [], "answers": 0, "seconds": 0.0})
    if asked == 0:
        for check in engine.checks[checked:]:
            old["asked"] += check.asked
            old["near_ties"] += check.near_ties
            old["different"] += check.different
    old["unshared_reason"] = engine.unshared_reason
    old["answers"] += asked
    old["seconds"] = round(old["seconds"] + seconds, 3)
    write_json(path, {**states, state: old})


def _answers(
    engine: Answerer, block: Sequence[Request], known: Collection[Request], pictures: Pictures
) -> Iterator[tuple[Request, Answer]]:
    """Ask what is not `known` of a block. The engine's batches are formed over all of it, so that a stopped evaluation
    ends with the same digits.
    """
    from mmpo.models.families.interleaved import TAG
    from mmpo.models.generation.answer import Question

    def prompt(request: Request) -> Any:
        return engine.prompt_of(request.prompt) if TAG in request.prompt else request.prompt

    by_image: dict[str, list[tuple[str, Request]]] = {}
    for number, request in enumerate(block):
        by_image.setdefault(pictures.fingerprint(request), []).append((str(number), request))
    groups = (
        (pictures.shown(about[0][1]), [Question(number, None, prompt(request)) for number, request in about])
        for about in by_image.values()
    )
    limit = block[0].max_new_tokens
    for answer in engine.answer(groups, max_new_tokens=limit, known=lambda id: block[int(id)] in known):
        yield block[int(answer.id)], answer
