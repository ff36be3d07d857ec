"""What goes into a batch beside the pairs' own answers without being a view of them: drawn positions (SamPO), and
responses that the reference wrote to the same prompts (a bank of samples).

A draw depends on (seed, pair, visit) alone, and both models see the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.data.corruption import generator
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_response
from mmpo.models.scoring.pairs import AnswerBatch, PairBatch
from mmpo.outside import json_of
from mmpo.trainers.encoded import EncodedPair

Bank = Mapping[str, tuple[Tensor, ...]]
"""Responses as token ids (int32), by the id of the pair to whose prompt they were written."""


@dataclass
class BatchFields:
    """Adds to batches what a run's objective reads besides views: `positions`, samples of a `bank`."""

    positions: bool = False
    bank: Bank = field(default_factory=dict)
    seed: int = 0

    def add(self, batch: PairBatch, rows: Sequence[EncodedPair]) -> PairBatch:
        if self.positions:
            drawn = [drawn_positions(row, self.seed) for row in rows]
            chosen, rejected = (pad_sequence(list(side), batch_first=True) for side in zip(*drawn, strict=True))
            batch = replace(
                batch,
                chosen_more={**batch.chosen_more, "positions": chosen},
                rejected_more={**batch.rejected_more, "positions": rejected},
            )
        return _with_samples(batch, self.bank) if self.bank else batch

    def extra_tokens(self, row: EncodedPair) -> int:
        """Tokens that the samples of a pair add, which are scored apart from it, with their prompt."""
        own = self.bank.get(row.id, ())
        return len(row.prompt) * bool(own) + sum(map(len, own))


def drawn_positions(row: EncodedPair, seed: int) -> tuple[Tensor, Tensor]:
    """Which tokens of chosen [t] and rejected [t] count, bool: all of the shorter response, as many drawn ones of the
    longer. Tokens between turns never do."""
    scored = [
        torch.arange(len(ids)) if turns is None else (turns >= 0).nonzero().flatten()
        for ids, turns in ((row.chosen, row.chosen_turns), (row.rejected, row.rejected_turns))
    ]
    count = min(map(len, scored))
    rng = generator(seed, f"{row.id}#positions", row.visit)
    masks = []
    for ids, own in zip((row.chosen, row.rejected), scored, strict=True):
        mask = torch.zeros(len(ids), dtype=torch.bool)
        kept = own if len(own) == count else own[torch.from_numpy(rng.choice(len(own), size=count, replace=False))]
        mask[kept] = True
        masks.append(mask)
    return masks[0], masks[1]


def _with_samples(batch: PairBatch, bank: Bank) -> PairBatch:
    assert batch.image_tokens is not None  # the collator counts them
    of = [pair for pair, name in enumerate(batch.ids) for _ in bank[name]]
    samples = AnswerBatch(
        prompt_ids=[batch.prompt_ids[pair] for pair in of],
        response_ids=[ids.long() for name in batch.ids for ids in bank[name]],
        image_index=[batch.image_index[pair] for pair in of],
        owner=list(range(len(of))),
        image_inputs=batch.image_inputs,
        image_tokens=batch.image_tokens,
    )
    return replace(batch, samples=samples, samples_of=of)


def sample_bank(
    vlm: VLM, data: Path, rows: Sequence[EncodedPair], limit: int | None = None
) -> dict[str, tuple[Tensor, ...]]:
    """The bank's responses to the prompts of `rows`, at most `limit` tokens of each. Raises `UserError` for a pair
    without one."""
    texts = read_bank(data)
    lacking = [row.id for row in rows if row.id not in texts]
    if lacking:
        raise UserError(
            f"{data}: {len(lacking)} of {len(rows)} pairs have no sample; the first is {lacking[0]}",
            hint="the rows' `id` is that of a pair",
        )
    return {
        row.id: tuple(torch.tensor(encode_response(vlm, text)[:limit], dtype=torch.int32) for text in texts[row.id])
        for row in rows
    }


def read_bank(data: Path) -> dict[str, list[str]]:
    """Texts by the id of their pair. Rows of one id add up. Raises `UserError` naming file and line."""
    files = sorted(data.glob("*.jsonl")) if data.is_dir() else [data]
    found: dict[str, list[str]] = {}
    for file in files:
        for number, line in enumerate(_lines(file), 1):
            where = f"{file}:{number}"
            try:
                row = json_of(line)
            except ValueError:
                raise UserError(f"{where}: not a line of JSON") from None
            name = row.get("id") if isinstance(row, Mapping) else None
            texts = row.get("texts") if isinstance(row, Mapping) else None
            if not isinstance(name, str) or not isinstance(texts, list) or not texts:
                raise UserError(f"{where}: needs `id` and `texts`, {json.dumps({'id': '1', 'texts': ['…']})}")
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise UserError(f"{where}: `texts` must be texts that are not empty")
            found.setdefault(name, []).extend(texts)
    if not found:
        raise UserError(f"{data}: holds no samples", hint="a .jsonl file, or a folder of them")
    return found


def _lines(file: Path) -> Iterable[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: can't be read as JSON Lines ({error})") from None
