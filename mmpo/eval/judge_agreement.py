"""Do two judges agree? The rewards stored with video pairs against those of a judge that sees the frames.

A caption judge is cheap and blind; how far its preferences hold is measured on the pairs that it made (LLaVA-Hound,
arXiv 2404.01258, reports a Pearson correlation near .47 and agreement on over 70% of pairs for GPT-4V). Intervals
resample whole videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from mmpo.chat import ChatModel, ChatReply, ChatRequest
from mmpo.chat.templates import render, template_version
from mmpo.chat.video_replies import read_reward
from mmpo.data.pair import PreferencePair
from mmpo.errors import Quarantined, UserError
from mmpo.statistics import Array

TEMPLATE = "video_frames_reward"


@dataclass(frozen=True)
class Compared:
    """One pair with both judges' rewards of its two answers; the second's are None where it gave none."""

    id: str
    video: str
    first: tuple[float, float]
    second: tuple[float | None, float | None]


@dataclass(frozen=True)
class Agreement:
    """The agreement of the second judge with the first: `agreement` is the share of pairs on which it prefers the same
    answer, ties left out (`ties` counts them); `pearson` and `spearman` are over answers. `intervals` are 95%.
    """

    first: str
    second: str
    pairs: int
    judged: int
    ties: int
    unjudged: int
    agreement: float | None
    pearson: float | None
    spearman: float | None
    mean_first: float | None
    mean_second: float | None
    intervals: dict[str, tuple[float, float] | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def frames_rewards(
    chat: ChatModel, pairs: Sequence[PreferencePair], template: str = TEMPLATE
) -> list[tuple[float | None, float | None]]:
    """The frames-aware judge's rewards of the chosen and the rejected answer of each pair; each answer is judged by
    itself. Raises UserError for a pair without frames."""
    requests = [_request(pair, text, template) for pair in pairs for text in (pair.chosen_text, pair.rejected_text)]
    rewards = [_reward(reply) for reply in chat.replies(requests, "judging with frames")]
    return list(zip(rewards[::2], rewards[1::2], strict=True))


def compared(pairs: Iterable[PreferencePair], second: Sequence[tuple[float | None, float | None]]) -> list[Compared]:
    """Both judges' rewards side by side. Raises UserError for pairs without stored rewards."""
    rows = []
    for pair, rewards in zip(pairs, second, strict=True):
        scores = pair.scores or {}
        try:
            first = (scores["chosen_reward"], scores["rejected_reward"])
        except KeyError:
            raise UserError(
                f"pair {pair.id} has no rewards", hint="give pairs that `builder: video_rewards` made"
            ) from None
        rows.append(Compared(pair.id, str((pair.provenance.get("sources") or [pair.id])[0]), first, rewards))
    return rows


def agreement(rows: Sequence[Compared], first: str, second: str, *, samples: int = 2000, seed: int = 0) -> Agreement:
    """All numbers with intervals from resampling videos."""
    whole = [row for row in rows if None not in row.second]
    values = np.array([[*row.first, *row.second] for row in whole], dtype=float).reshape(-1, 4)
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(whole):
        groups.setdefault(row.video, []).append(place)
    members = [np.array(places) for places in groups.values()]
    numbers = _numbers(values)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in numbers}
    for _ in range(samples if len(members) > 1 else 0):
        picked = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        for name, value in _numbers(values[picked]).items():
            if value is not None:
                drawn[name].append(value)
    intervals = {
        name: (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))) if found else None
        for name, found in drawn.items()
    }
    return Agreement(
        first=first,
        second=second,
        pairs=len(rows),
        judged=len(whole),
        ties=int((values[:, 2] == values[:, 3]).sum()),
        unjudged=len(rows) - len(whole),
        mean_first=float(values[:, :2].mean()) if len(values) else None,
        mean_second=float(values[:, 2:].mean()) if len(values) else None,
        intervals=intervals,
        **numbers,
    )


def judge_name(chat: ChatModel, template: str = TEMPLATE) -> str:
    return f"{chat.identity}, prompt {template_version(template)}"


def _numbers(values: Array) -> dict[str, float | None]:
    """Agreement and correlations of [n, 4] rewards: first chosen, first rejected, second chosen, second rejected."""
    first, second = values[:, :2].reshape(-1), values[:, 2:].reshape(-1)
    decided = values[values[:, 2] != values[:, 3]]
    varied = len(first) > 2 and np.ptp(first) > 0 and np.ptp(second) > 0
    same = np.sign(decided[:, 0] - decided[:, 1]) == np.sign(decided[:, 2] - decided[:, 3])
    return {
        "agreement": float(same.mean()) if len(decided) else None,
        "pearson": float(pearsonr(first, second).statistic) if varied else None,
        "spearman": float(spearmanr(first, second).statistic) if varied else None,
    }


def _request(pair: PreferencePair, text: str, template: str) -> ChatRequest:
    frames = [frame for video in pair.videos or [] for frame in video.get("frames") or []] or list(pair.images)
    if not frames or not all(isinstance(frame, bytes) for frame in frames):
        raise UserError(f"pair {pair.id} holds no frames", hint="give pairs whose frames are embedded")
    prompt = render(template, question=pair.prompt_text, candidate=text, frames=len(frames))
    return ChatRequest.ask(prompt, images=tuple(frame for frame in frames if isinstance(frame, bytes)))


def _reward(reply: ChatReply | Quarantined) -> float | None:
    return None if isinstance(reply, Quarantined) else read_reward(reply.text).score
