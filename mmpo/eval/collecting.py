"""Responses of every model state: from the run's log, from the cache of earlier runs, or from the model."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmpo.eval.answers import AnswerCache, AnswerLog, answer_key, folder_fingerprint, model_folder
from mmpo.eval.pictures import Pictures
from mmpo.eval.protocol import Request, Response
from mmpo.eval.settings import EvalSettings
from mmpo.files.atomic import read_json, write_json
from mmpo.models.folder import check_adapter
from mmpo.progress import task

if TYPE_CHECKING:
    from mmpo.models.families.loading import VLM
    from mmpo.models.generation.answer import Answer, AnswerEngine

ModelState = Literal["before", "after"]
Responses = dict[ModelState, dict[Request, Response]]
Keys = Mapping[tuple[ModelState, Request], str]

ENGINE = "engine.json"


class AskedModel:
    """The model of an evaluation, known by its files and loaded when it is first asked."""

    def __init__(self, settings: EvalSettings) -> None:
        self.settings = settings

    @cached_property
    def fingerprint(self) -> str:
        """Of the contents of the model's files."""
        return folder_fingerprint(model_folder(self.settings.model))

    @cached_property
    def adapter(self) -> str | None:
        """The fingerprint of the adapter's files, None without one. Raises UserError where it is no adapter."""
        if not self.settings.adapter:
            return None
        check_adapter(self.settings.adapter)
        return folder_fingerprint(Path(self.settings.adapter))

    @property
    def weights(self) -> str:
        """The number format of the weights."""
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
    def answering(self, state: ModelState) -> Iterator[AnswerEngine]:
        """What answers in this state: the model with its adapter off or on, or the other one that stands before, which
        is gone again behind the block, so that two are never in memory together."""
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


def answer_keys(requests: Sequence[Request], pictures: Pictures, model: AskedModel) -> Keys:
    """The key in `answers.jsonl` of each request's answer in each state."""
    return {
        (state, request): answer_key(
            *asked, model.weights, pictures.fingerprint(request), request.prompt, request.max_new_tokens
        )
        for state, asked in model.states.items()
        for request in requests
    }


def collect_responses(requests: Sequence[Request], pictures: Pictures, model: AskedModel, run_dir: Path) -> Responses:
    """The responses to all requests, by model state; the model is asked what is not answered yet. Two requests with the
    same picture and words are asked once, whatever the picture is called.

    Every answer is in `run_dir/answers.jsonl` in the end; the setting `cache` names a folder where other runs find them
    too.
    """
    settings, states = model.settings, model.states
    keys = answer_keys(requests, pictures, model)
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
            _ask_model(every, keys, pictures, model, answers, cache, run_dir / ENGINE)
        return {state: {request: _response(answers[keys[state, request]]) for request in requests} for state in states}


def engine_notes(run_dir: Path) -> tuple[list[str], list[str]]:
    """Notes from `engine.json` on how the answers of a run were made: (conventions, warnings)."""
    path = run_dir / ENGINE
    states: dict[str, Any] = read_json(path) if path.exists() else {}
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
            with model.answering(state) as engine:
                _ask_state(engine, state, every, known, keys, pictures, answers, cache, record)


def _ask_state(
    engine: AnswerEngine,
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
    started, checked = time.monotonic(), len(engine.checks)
    with task(label, missing) as running:
        for number, (request, answer) in enumerate(_answers(engine, every[state], known, pictures)):
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
            if number == 0:
                _record(record, state, engine, checked, 0, 0.0)
    _record(record, state, engine, checked, missing, time.monotonic() - started)


def _record(path: Path, state: ModelState, engine: AnswerEngine, checked: int, asked: int, seconds: float) -> None:
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
    engine: AnswerEngine, requests: Sequence[Request], known: Collection[Request], pictures: Pictures
) -> Iterator[tuple[Request, Answer]]:
    """Ask what is not `known`, all that concerns a picture together, and answers of one length limit together. The
    engine's batches are formed over all requests, so that a stopped evaluation ends with the same digits.
    """
    from mmpo.models.families.interleaved import TAG, interleaved
    from mmpo.models.generation.answer import Question

    def prompt(request: Request) -> Any:
        return interleaved(engine.vlm, request.prompt) if TAG in request.prompt else request.prompt

    numbers = {request: str(number) for number, request in enumerate(requests)}
    for limit in sorted({request.max_new_tokens for request in requests}):
        by_image: dict[str, list[Request]] = {}
        for request in requests:
            if request.max_new_tokens == limit:
                by_image.setdefault(pictures.fingerprint(request), []).append(request)
        groups = (
            (pictures.shown(about[0]),
             [Question(numbers[request], None, prompt(request)) for request in about])
            for about in by_image.values()
        )  # fmt: skip
        for answer in engine.answer(groups, max_new_tokens=limit, known=lambda id: requests[int(id)] in known):
            yield requests[int(answer.id)], answer
