"""Choice of the next token, and reading of yes/no questions from the first logits.

A chooser turns logits into scores whose argmax is the next token. Because it is a function of a row's own logits and
its own random stream, a row gets the same tokens alone, packed with others, or through `model.generate`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor

from mmpo.errors import UserError
from mmpo.models.crossing import moved, placed
from mmpo.models.families.loading import VLM


class Chooser(Protocol):
    """`scores(logits [n, v] fp32, rows)` for the given rows of a batch; the argmax is the next token. `alone(row)` is
    the chooser that does the same for that row by itself, from its beginning, as row 0."""

    def scores(self, logits: Tensor, rows: Sequence[int]) -> Tensor: ...

    def alone(self, row: int) -> Chooser: ...


class Greedy:
    """The likeliest token."""

    def scores(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        return logits

    def alone(self, row: int) -> Greedy:
        return self


class TokenSampler:
    """Temperature and nucleus sampling by the Gumbel-max trick: argmax(log p + Gumbel noise) is a sample from p.

    Noise is a function of the row's `seeds` entry, the step and the token: on a CPU from one generator per row, one
    draw per step, elsewhere made on the device (`hashed_exponentials`). Rounding moves a choice only where two
    perturbed scores are that close, not at every boundary of a cumulative sum. With `top_p` a
    token is kept while the likelier ones hold less than `top_p` of the mass (Holtzman et al. 2020, section 3.1).
    A row whose seed is None is not sampled: it takes the likeliest token, as `Greedy` does.
    """

    def __init__(self, seeds: Sequence[int | None], *, temperature: float = 1.0, top_p: float = 1.0) -> None:
        if temperature <= 0:
            raise UserError(
                f"temperature must be above 0, not {temperature}", hint="for the likeliest answer use `answer`"
            )
        if not 0 < top_p <= 1:
            raise UserError(f"top_p must be in (0, 1], not {top_p}")
        self.seeds = list(seeds)
        self.temperature, self.top_p = temperature, top_p
        self._generators = [None if seed is None else torch.Generator().manual_seed(seed) for seed in seeds]
        self._step = 0

    def scores(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        self._step += 1
        drawn = [place for place, row in enumerate(rows) if self.seeds[row] is not None]
        if not drawn:
            return logits
        places = None if len(drawn) == len(rows) else placed(drawn, logits.device)
        sampled = (logits if places is None else logits[places]) / self.temperature
        if self.top_p < 1:
            sampled = sampled.masked_fill(outside_nucleus(sampled, self.top_p), float("-inf"))
        sampled = sampled - self._noise([rows[place] for place in drawn], logits).log()
        return sampled if places is None else logits.index_copy(0, places, sampled)

    def _noise(self, rows: Sequence[int], logits: Tensor) -> Tensor:
        """This step's exponentials of some rows, [n, v] fp32, on the device of `logits`."""
        if logits.device.type != "cpu":
            seeds = placed([seed for row in rows if (seed := self.seeds[row]) is not None], logits.device)
            return hashed_exponentials(seeds, self._step, logits.shape[1])
        width = logits.shape[1]
        return torch.stack([torch.empty(width).exponential_(generator=self._generators[row]) for row in rows])

    def alone(self, row: int) -> TokenSampler:
        return TokenSampler([self.seeds[row]], temperature=self.temperature, top_p=self.top_p)


_GOLDEN = 0x9E3779B97F4A7C15


def hashed_exponentials(seeds: Tensor, step: int, width: int) -> Tensor:
    """Independent draws from Exp(1), [n, width] fp32, for `seeds` [n] (int64): each a hash of its row's seed, the step
    and its column, so that a row gets the same wherever it stands. The hash is SplitMix64 (Steele, Lea & Flood 2014,
    figure 16), started anew for each row and step at a place that the hash itself chose."""
    start = _mixed(_mixed(seeds) + _signed(step * _GOLDEN))
    columns = torch.arange(1, width + 1, device=seeds.device) * _signed(_GOLDEN)
    bits = _logical_shift(_mixed(start[:, None] + columns), 11)  # 53 of them: what a double can hold
    return bits.double().add_(1.0).mul_(2.0**-53).log_().neg_().clamp_min_(2.0**-54).float()


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finalizer of int64 numbers, which wrap around like unsigned ones."""
    x = (x ^ _logical_shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _logical_shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """The int64 with the same 64 bits."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def outside_nucleus(logits: Tensor, top_p: float, first: int = 256) -> Tensor:
    """[n, v] bool: tokens that nucleus sampling drops. Looks at the `first` likeliest tokens before it sorts
    everything; on a device it sorts at once, because to ask whether these are enough would make the host wait."""
    p = logits.softmax(-1)
    width = min(first, p.shape[-1])
    top = p.topk(width, dim=-1).values
    if width < p.shape[-1] and (p.device.type != "cpu" or bool((top.sum(-1) < top_p).any())):
        top = p.sort(dim=-1, descending=True).values
    before = top.cumsum(-1) - top
    last = (before < top_p).sum(-1, keepdim=True) - 1  # the last kept place; place 0 always is
    return p < top.gather(-1, last)


def stream_seed(*parts: object) -> int:
    """A 63-bit seed from anything with a stable text form, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RepetitionPenalty:
    """The `repetition_penalty` of a model's generation settings (Keskar et al. 2019, section 4.1, in the form of
    `generate`): the logit of a token that stands in the row's prompt or answer is divided by it where it is positive,
    multiplied where it is negative. Qwen2.5-VL ships with 1.05."""

    def __init__(self, penalty: float, prompts: Sequence[Sequence[int]], device: torch.device | str) -> None:
        self.penalty = penalty
        distinct = [sorted(set(prompt)) for prompt in prompts]
        width = max(map(len, distinct))
        padded = [own + own[:1] * (width - len(own)) for own in distinct]  # to name a token twice changes nothing
        self._seen = moved(torch.tensor(padded), device)

    @classmethod
    def of(cls, vlm: VLM, prompts: Sequence[Sequence[int]]) -> RepetitionPenalty | None:
        """None where the model asks for none."""
        penalty = repetition_penalty(vlm)
        return None if penalty == 1.0 else cls(penalty, prompts, vlm.device)

    def apply(self, logits: Tensor) -> Tensor:
        """[n, v], a new tensor, for the rows that are left."""
        own = logits.gather(1, self._seen)
        return logits.scatter(1, self._seen, torch.where(own < 0, own * self.penalty, own / self.penalty))

    def chosen(self, tokens: Tensor) -> None:
        """Take note of the next token of every row, [n]."""
        self._seen = torch.cat([self._seen, tokens[:, None]], dim=1)

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows [n] alone."""
        self._seen = self._seen[rows]


def repetition_penalty(vlm: VLM) -> float:
    """The repetition penalty of the model's generation settings; 1 where they have none."""
    asked = getattr(vlm.base.generation_config, "repetition_penalty", None)
    return 1.0 if asked is None else float(asked)


class ChooserProcessor(LogitsProcessor):
    """A chooser of one row inside `model.generate(do_sample=False)`."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.chooser.scores(scores.float(), [0])


class YesNo:
    """The single-token spellings of yes and no in a vocabulary (`yes`, `Yes`, `YES`, with or without a leading
    space)."""

    def __init__(self, tokenizer: Any) -> None:
        spelled: dict[str, list[int]] = {"yes": [], "no": []}
        for token, index in tokenizer.get_vocab().items():
            bare = token.lstrip("\u2581\u0120 ")  # the space marks of sentencepiece and byte-level vocabularies
            if len(bare) > 3 or len(token) - len(bare) > 1:
                continue
            if bare in (bare.lower(), bare.capitalize(), bare.upper()) and bare.lower() in spelled:
                spelled[bare.lower()].append(index)
        self.yes, self.no = sorted(spelled["yes"]), sorted(spelled["no"])

    def __bool__(self) -> bool:
        """True if the vocabulary has both words as single tokens."""
        return bool(self.yes and self.no)

    def read(self, logits: Tensor) -> Tensor:
        """[n, 2]: log-sum-exp of the logits of all spellings of yes, and of no."""
        spelled = (placed(ids, logits.device) for ids in (self.yes, self.no))
        return torch.stack([logits[:, ids].logsumexp(-1) for ids in spelled], dim=1)


FirstReader = Callable[[Tensor], Tensor]
