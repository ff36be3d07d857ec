"""Batched generation for prompts about images: sharing their images' work where that is exact on this model,
else on copies of their image's cache, else one by one. The first batch proves it, with the adapter and without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.generation.asking import ShownImages
from mmpo.models.generation.choosing import Chooser, YesNo
from mmpo.models.generation.generate import (
    Continuation,
    PromptGroup,
    answering,
    generate_alone,
    generate_shared,
    prefill_images,
)
from mmpo.models.generation.probe import ProbeSpec
from mmpo.models.generation.self_check import SelfCheck, plain_decoding
from mmpo.models.generation.shared_cache import SharingUnsupported
from mmpo.models.generation.stopping import SentenceStop
from mmpo.models.tree.sharing import Sharing


@dataclass(frozen=True)
class PromptRow:
    """One prompt to continue. Rows with the same `shown` share their prefix; `tag` is the caller's. `begun` is the text
    at the end of the prompt that the answer continues."""

    shown: ShownImages
    prompt: list[int]
    tag: Hashable
    seed: int | None = 0
    begun: str = ""


@dataclass(frozen=True)
class Bounds:
    """Of a batch: at most so many `new_tokens` a row, `tokens` in memory together, and `rows` (None: any number). Each
    row also ends where `stop` says."""

    new_tokens: int
    tokens: int
    rows: int | None = None
    stop: SentenceStop | None = None


class Continuer:
    """Continues prompts. `sharing` "auto" checks `check` answers of the first batch and falls back loudly,
    "on" insists, "off" goes one by one. `checks` holds what was found, `unshared_reason` why sharing is off (empty
    while it is on), `repeats` is True if copies of an image's cache are continued instead."""

    def __init__(self, vlm: VLM, sharing: Sharing, check: int) -> None:
        if sharing not in ("auto", "on", "off"):
            raise UserError(f"sharing={sharing!r}", hint='one of "auto", "on", "off"')
        self.vlm = vlm
        self.checks: list[SelfCheck] = []
        self.unshared_reason = ""
        self.repeats = False
        self._sharing, self._check_size = sharing, check
        self._yes_no = YesNo(vlm.tokenizer)
        self._checked: set[bool] = set()
        if sharing == "off":
            self.unshared_reason = "switched off"
        elif (
            reason := (vlm.family.unsupported_reason or "its family can't")
            if not vlm.family.sharing
            else plain_decoding(vlm)
        ):
            self._cannot_share(reason)

    def stream(
        self,
        rows: Iterable[PromptRow],
        chooser: Callable[[Sequence[PromptRow]], Chooser],
        bounds: Bounds,
        off: bool,
        probe: ProbeSpec | None = None,
        leave: Callable[[Sequence[PromptRow]], bool] | None = None,
    ) -> Iterator[tuple[PromptRow, Continuation]]:
        """Continue rows batch by batch, in order. A batch closes before it would pass the token budget; `leave` says
        that one need not be continued. `off`: the adapter is switched off.
        """
        limit = bounds.new_tokens
        batch: list[PromptRow] = []
        digests: set[str] = set()
        cost = 0
        for row in rows:
            image_tokens = sum(map(len, row.shown.processed.placeholders))
            own = len(row.prompt) - image_tokens + limit
            more = own + (0 if row.shown.digest in digests else image_tokens)
            if batch and (cost + more > bounds.tokens or len(batch) == bounds.rows):
                if leave is None or not leave(batch):
                    yield from zip(batch, self._run(batch, chooser, bounds, off, probe), strict=True)
                batch, digests, cost, more = [], set(), 0, own + image_tokens
            batch.append(row)
            digests.add(row.shown.digest)
            cost += more
        if batch and (leave is None or not leave(batch)):
            yield from zip(batch, self._run(batch, chooser, bounds, off, probe), strict=True)

    def _run(
        self,
        batch: Sequence[PromptRow],
        chooser: Callable[[Sequence[PromptRow]], Chooser],
        bounds: Bounds,
        off: bool,
        probe: ProbeSpec | None = None,
    ) -> list[Continuation]:
        """One batch: rows about the same images become a group; results in the order of the batch."""
        places: dict[str, list[int]] = {}
        for place, row in enumerate(batch):
            places.setdefault(row.shown.digest, []).append(place)
        order = [place for group in places.values() for place in group]
        groups = []
        for members in places.values():
            processed = batch[members[0]].shown.processed
            groups.append(PromptGroup([batch[place].prompt for place in members], processed.tensors, len(processed)))
        pick = chooser([batch[place] for place in order])
        with answering(self.vlm.model), self.vlm.adapter_off() if off else nullcontext():
            results = self._continue(groups, pick, bounds, off, probe)
        ordered: list[Continuation] = [Continuation()] * len(batch)
        for place, result in zip(order, results, strict=True):
            ordered[place] = result
        return ordered

    def _continue(
        self, groups: list[PromptGroup], pick: Chooser, bounds: Bounds, off: bool, probe: ProbeSpec | None = None
    ) -> list[Continuation]:
        """Continue the prompts of every group; results in their order."""
        reader = self._yes_no.read if self._yes_no else None
        limit, stop = bounds.new_tokens, bounds.stop
        flat = [(group, index) for group in groups for index in range(len(group.prompts))]

        def alone(row: int, past: Any | None = None) -> tuple[Continuation, list[torch.Tensor]]:
            group, index = flat[row]
            return generate_alone(
                self.vlm,
                group,
                index,
                max_new_tokens=limit,
                chooser=pick.alone(row),
                reader=reader,
                probe=probe,
                past=past,
                stop=stop,
            )

        if not self.unshared_reason:
            try:
                shared = generate_shared(
                    self.vlm, groups, max_new_tokens=limit, chooser=pick, reader=reader, probe=probe, stop=stop
                )
            except SharingUnsupported as reason:
                self._cannot_share(str(reason))
            else:
                results = [continuation for group in shared for continuation in group]
                different = None if self._sharing == "on" else self._different(results, alone, off)
                if different is None:
                    return results
                self._cannot_share(f"the self-check found other answers than one by one: {different}", copies=False)
        if self.repeats and probe is None:
            results, row = [], 0
            for group in groups:
                past = prefill_images(self.vlm, group)
                results += [alone(row + index, past)[0] for index in range(len(group.prompts))]
                row += len(group.prompts)
            different = self._different(results, alone, off)
            if different is None:
                return results
            self.repeats = False
            warnings.warn(
                f"{self.vlm.source}: a copied cache gives other answers: {different}. Answering one by one.",
                RuntimeWarning,
                stacklevel=3,
            )
        return [alone(row)[0] for row in range(len(flat))]

    def _different(
        self,
        results: Sequence[Continuation],
        alone: Callable[[int], tuple[Continuation, list[torch.Tensor]]],
        off: bool,
    ) -> str | None:
        """The first difference from answers made alone, or None. Looked for once with the adapter and once without."""
        if off in self._checked:
            return None
        self._checked.add(off)
        check = SelfCheck.run(results, alone, self._check_size, self.vlm.dtype)
        self.checks.append(check)
        return check.different[0] if check.different else None

    def _cannot_share(self, reason: str, *, copies: bool = True) -> None:
        message = f"{self.vlm.source}: questions can't share their image's work: {reason}"
        if self._sharing == "on":
            raise UserError(message, hint='use sharing="auto" to answer one by one instead')
        self.unshared_reason = reason
        # Where a prompt's own words change its image (a prefix that sees itself both ways) not even a copy would do.
        self.repeats = copies and self.vlm.family.blocks != "prompt" and self.vlm.family.features != "own"
        instead = (
            "Each continues a copy of its image's cache instead, which is slower."
            if self.repeats
            else "Answering one by one, which is much slower."
        )
        warnings.warn(f"{message}. {instead}", RuntimeWarning, stacklevel=3)
