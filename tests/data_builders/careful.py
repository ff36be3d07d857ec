"""A scripted text model that judges, rewrites and asks as a careful one would, and the faults of a bad day.

Everything here is a function of a module without torch, so that a server process of its own can run it.
"""

from __future__ import annotations

import re
import zlib

from tests.chat.server import FAULTS

NAMES = ("cat", "dog", "cup", "bird", "horse")
LASTING = dict(
    zip(
        ("cat, dog", "cat, bird", "cat, horse", "dog, bird", "dog, horse", "cup, bird", "cup, horse"),
        FAULTS,
        strict=True,
    )
)
"""Images, by their annotated objects, whose descriptions the server never judges: each has one of the faults."""
MUDDLED = "horse"
"""The image whose descriptions are judged in words that are no judgement."""
CUT_OFF = "make out a bird"
"""What the writer never gets done saying."""


def scripted(prompt: str) -> str:
    """Does its work by the words in its prompt."""
    if "check a description" in prompt:
        marked = judged_objects(prompt) or ""
        sentences = re.findall(r"^\d+\. (.*)$", prompt.partition("sentences numbered:")[2], re.M)
        wrong = [name for name in NAMES if name not in marked]
        lines = [
            f"{number}. " + ("hallucination: not marked" if any(name in text for name in wrong) else "correct: marked")
            for number, text in enumerate(sentences, start=1)
        ]
        first = marked.split(", ")[0].split(" (")[0]
        return "\n".join([*lines, "Corrected:", f"One can make out a {first}."])
    if "Word the following" in prompt:
        text = prompt.partition("\n\n")[2].partition("\n\nRules")[0]
        flipped = text.replace("a dog", "a cat").replace("two cups", "a cat")
        return f"1. Seen here: {text}\n2. {flipped}\n3. The photographer found this: {text}"
    name = next(name for name in ("dog", "bird", "horse", "cup", "cat") if name in prompt.partition("Wrong:")[2])
    answer = "yes" if name in prompt.partition("Wrong:")[0] else "no"
    return f"Question: Is there a {name} in the image?\nAnswer: {answer}\nObject: {name}"


def muddled(prompt: str) -> str:
    """`scripted`, but for one image."""
    return "As I see it, all is well." if judged_objects(prompt) == MUDDLED else scripted(prompt)


def judged_objects(prompt: str) -> str | None:
    """The annotated objects in a judge's prompt."""
    found = re.search(r"Objects: (.*)", prompt)
    return found[1] if found and "check a description" in prompt else None


def bad_day(prompt: str, attempt: int) -> str | None:
    """Every request fails at the first try, each fault in its turn; some fail for good."""
    if (fault := LASTING.get(judged_objects(prompt) or "")) is not None:
        return fault
    if CUT_OFF in prompt and "Word the following" in prompt:
        return "length"
    return FAULTS[zlib.crc32(prompt.encode()) % len(FAULTS)] if attempt == 1 else None
