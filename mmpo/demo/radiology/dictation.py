"""Reports of synthetic chests: exact ones, and ones as they are dictated with an earlier exam available.

The exact report says what is in the film. The dictated one says the same, but every sentence may be worded as a
comparison with an earlier exam that the film's reader never sees. A model trained on it hallucinates such exams.
"""

from __future__ import annotations

import numpy as np

from mmpo.demo.radiology.chests import SIDES, ZONES, Chest

PROMPT = "Write a radiology report for this chest radiograph."
PRIOR_SHARE = 0.4
"""Chance of a sentence to refer to an earlier exam, in dictated reports."""

Wording = tuple[tuple[str, ...], tuple[str, ...]]
"""Plain ways of saying something, and ways with a reference to an earlier exam."""


def _present(what: str, article: str = "a", grows: bool = True) -> Wording:
    """`what` is in the film; findings grow, devices don't."""
    head = f"{article} {what}".strip()
    capital = head[0].upper() + head[1:]
    return (
        (f"There is {head}.", f"{capital} is present.", f"{capital} is seen."),
        (
            f"There is again {head}.",
            f"The {what} is unchanged from the prior study.",
            f"Again seen is {head}.",
            f"There is {head}, stable since the prior exam.",
            f"Compared to the prior radiograph, the {what} is unchanged.",
            f"The {what} {'has increased since' if grows else 'is in the same position as on'} the previous exam.",
        ),
    )


_HEART = {
    True: (
        ("The heart is enlarged.", "There is cardiomegaly."),
        (
            "The heart remains enlarged.",
            "There is stable cardiomegaly.",
            "Cardiomegaly is unchanged from the prior exam.",
        ),
    ),
    False: (
        ("Heart size is normal.", "The heart is normal in size."),
        ("Heart size remains normal.", "Heart size is normal and unchanged."),
    ),
}
_NO_EFFUSION: Wording = (
    ("No pleural effusion.", "There is no pleural effusion."),
    ("No pleural effusion, unchanged from the prior study.", "No pleural effusion, as before."),
)
_NO_PNEUMOTHORAX: Wording = (
    ("No pneumothorax.", "There is no pneumothorax."),
    ("No pneumothorax, unchanged from the prior study.", "No pneumothorax, as on the previous radiograph."),
)
_CLEAR: Wording = (("The lungs are clear.",), ("The lungs remain clear.", "The lungs are clear, as before."))
_CLOSING = ("No significant interval change.", "There is little change from the prior radiograph.")


def statements(chest: Chest) -> list[Wording]:
    """The statements about a chest, in the order of a report."""
    said: list[Wording] = []
    if chest.of("endotracheal tube"):
        said.append(_present("endotracheal tube", "an", grows=False))
    if chest.of("pacemaker"):
        said.append(_present("pacemaker", grows=False))
    said.append(_HEART[bool(chest.of("cardiomegaly"))])
    if chest.of("edema"):
        said.append(_present("pulmonary edema", ""))
    said += [_present(f"{one.side} {one.zone} lung opacity") for one in chest.of("opacity")]
    said += [_present(f"{one.side} {one.zone} lung nodule") for one in chest.of("nodule")]
    if not any(chest.of(kind) for kind in ("edema", "opacity", "nodule")):
        said.append(_CLEAR)
    effusions = chest.of("effusion")
    said += [_present(f"{one.degree} {one.side} pleural effusion") for one in effusions] or [_NO_EFFUSION]
    pneumothoraces = chest.of("pneumothorax")
    said += [_present(f"{one.side} pneumothorax") for one in pneumothoraces] or [_NO_PNEUMOTHORAX]
    return said


def exact_report(chest: Chest, rng: np.random.Generator) -> str:
    """A report without any reference to an earlier exam."""
    return " ".join(str(rng.choice(plain)) for plain, _ in statements(chest))


def dictated_report(chest: Chest, rng: np.random.Generator) -> str:
    """A report in which each sentence refers to an earlier exam with the chance `PRIOR_SHARE`."""
    lines = [str(rng.choice(prior if rng.random() < PRIOR_SHARE else plain)) for plain, prior in statements(chest)]
    if rng.random() < PRIOR_SHARE:
        lines.append(str(rng.choice(_CLOSING)))
    return " ".join(lines)


ASKED = {
    "effusion": "pleural effusion", "opacity": "lung opacity", "nodule": "lung nodule", "pneumothorax": "pneumothorax",
    "pacemaker": "pacemaker",
}  # fmt: skip
"""The findings of yes/no questions and how these name them."""


def question(chest: Chest, rng: np.random.Generator) -> tuple[str, str]:
    """A yes/no question about the film and its answer; asked in training only, so that the model learns to look. Half
    are about something that is there, where there is anything.
    """
    kind, side, zone = str(rng.choice(list(ASKED))), str(rng.choice(SIDES)), str(rng.choice(ZONES))
    shown = [finding for finding in chest.findings if finding.kind in ASKED]
    if shown and rng.random() < 0.5:
        one = shown[int(rng.integers(len(shown)))]
        kind, side, zone = one.kind, one.side or side, one.zone or zone
    found = chest.of(kind)
    if kind == "pacemaker":
        return "Is there a pacemaker?", "Yes." if found else "No."
    what = f"{side} {zone} {ASKED[kind]}" if kind in ("opacity", "nodule") else f"{side} {ASKED[kind]}"
    there = any(one.side == side and (one.zone is None or one.zone == zone) for one in found)
    return f"Is there a {what}?", "Yes." if there else "No."
