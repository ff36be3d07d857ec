"""Does a server really answer with an adapter? Its log-probs of a few texts against ours, with the adapter and without.

vLLM passes over the modules of an adapter that it does not know, and a server that was started without it, or with the
one of another run, answers as fluently as any. So the server writes a few answers and says how likely it found each
token; the model here says how likely it finds the same tokens.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from mmpo.chat import ChatReply, ChatRequest
from mmpo.chat.served_models import gives_log_probs, open_models
from mmpo.chat.server import ServerChat
from mmpo.chat.settings import SamplerSettings
from mmpo.errors import UserError
from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.scoring.segment_logps import response_logps
from mmpo.trainers.export import Finished, import_plugins

QUESTIONS = (
    "Describe the image in one sentence.",
    "Please describe this image in detail.",
    "What is in the middle of the image?",
    "Is there a dog in the image?",
)
TOKENS = 32
LEAST = 0.02
"""Nats per token: an adapter that changes the log-probs of these texts by less can't be told from the model without it;
bfloat16 alone moves them by about as much."""

VLLM_RANK = 16
"""vLLM's `--max-lora-rank` where it is not set."""


@dataclass(frozen=True)
class ServedCheck:
    """Mean absolute differences in nats per token over `texts` that the server wrote as `name`: of its log-probs from
    those of model and adapter here (`ours`), from those of the model alone (`base`), and between these two (`effect`).
    """

    name: str
    texts: int
    tokens: int
    ours: float
    base: float
    effect: float

    @property
    def verdict(self) -> Literal["right", "no effect", "other weights", "unclear"]:
        """`unclear`: the adapter changes too little here. The nearer of the two must be nearer by half the effect."""
        if self.effect < LEAST:
            return "unclear"
        if self.ours < self.effect / 4:
            return "right"
        return "no effect" if self.base < self.effect / 4 else "other weights"

    @property
    def line(self) -> str:
        """The verdict in words."""
        said = {
            "right": f"{self.name} is served rightly",
            "no effect": f"{self.name} has no effect: the server answers as the model without the adapter does",
            "other weights": f"{self.name} is neither this adapter nor the model without it",
            "unclear": "the adapter changes too little of these texts to tell whether it is served",
        }[self.verdict]
        return (
            f"{said} ({self.ours:.3f} nats per token from model and adapter here, {self.base:.3f} from the model "
            f"alone; between these {self.effect:.3f})"
        )


def check_server(
    training: Finished, url: str, name: str | None = None, *, api_key_env: str | None = None
) -> ServedCheck:
    """Compare what the server at `url` answers as `name` (by default the one adapter that it lists) with the result of
    a training. Raises `UserError` where the server does not answer, does not know the name, or gives no log-probs."""
    with ExitStack() as stack:
        listing = SamplerSettings.model_validate(
            {"url": url, "model": name or "?", "api_key_env": api_key_env, "retries": 2}
        )
        if name is None:
            (chat,) = open_models(listing, stack).values()
            listing = listing.model_copy(update={"model": _only_adapter(chat)})
        (chat,) = open_models(listing, stack).values()
        if not gives_log_probs(chat):
            raise UserError(
                f"{chat.identity}: the server gives no log-probs, so it can't be checked",
                hint="vLLM and SGLang give them; `transformers serve` does not",
            )
        picture = Image.linear_gradient("L").resize((336, 336)).convert("RGB")
        replies = _answers(chat, encode_image(picture))
    settings = training.settings
    import_plugins(training)
    vlm = load_vlm(
        settings.model,
        adapter=training.adapter,
        dtype="auto",
        trust_remote_code=settings.trust_remote_code,
        allow_network=settings.allow_network,
    )
    return compare(vlm, picture, replies, chat.settings.model)


def compare(vlm: VLM, picture: Image.Image, replies: list[tuple[str, ChatReply]], name: str) -> ServedCheck:
    """The served replies to questions about a picture against the model here, adapter on and off."""
    served, ours, base, lengths = [], [], [], []
    for question, reply in replies:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages, texts = [{"role": "user", "content": content}], [(reply.text.strip(), True)]
        ((logp, tokens),) = response_logps(vlm, messages, [picture], texts)
        with vlm.adapter_off():
            ((alone, _),) = response_logps(vlm, messages, [picture], texts)
        said = [token.logp for token in reply.tokens or ()]
        if len(said) not in (tokens, tokens + 1):  # the text is spelled in other tokens than it was written in
            continue
        lengths.append(tokens)
        served.append(sum(said[:tokens]) / tokens)  # an end token may follow those of the text
        ours.append(logp / tokens)
        base.append(alone / tokens)

    if not lengths:
        raise UserError(
            f"{name}: the texts of the server have other numbers of tokens here, so nothing can be compared",
            hint="is it the same model? One that writes gibberish is also found like this",
        )

    def apart(one: list[float], other: list[float]) -> float:
        return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)

    return ServedCheck(name, len(lengths), sum(lengths), apart(served, ours), apart(served, base), apart(ours, base))


def _answers(chat: ServerChat, picture: bytes) -> list[tuple[str, ChatReply]]:
    requests = [
        ChatRequest((("user", (picture, question)),), max_tokens=TOKENS, top_logprobs=1) for question in QUESTIONS
    ]
    replies = zip(QUESTIONS, chat.replies(requests), strict=True)
    found = [(asked, reply) for asked, reply in replies if isinstance(reply, ChatReply) and reply.text and reply.tokens]
    if not found:
        raise UserError(
            f"{chat.identity}: no answer to a question about a picture", hint="is it a model that takes pictures?"
        )
    return found


def _only_adapter(chat: ServerChat) -> str:
    rows = chat.listed()
    adapters = [row["id"] for row in rows if row.get("parent")]
    if len(adapters) == 1:
        return str(adapters[0])
    known = ", ".join(row["id"] for row in rows) or "nothing"
    raise UserError("the server lists no single adapter", hint=f"name it with --served; it lists {known}")


def high_rank(config: dict[str, object]) -> int | None:
    """The largest rank in an adapter's configuration where vLLM refuses it as it is set by default."""
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    largest = max((rank for rank in ranks if isinstance(rank, int)), default=0)
    return largest if largest > VLLM_RANK else None
