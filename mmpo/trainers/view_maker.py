"""The views that an objective needs, as the settings of a run describe them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from mmpo.data.corruption import Corruption
from mmpo.errors import UserError
from mmpo.models.loading import VLM
from mmpo.objectives import Objective
from mmpo.trainers.collate import EncodedPair
from mmpo.trainers.images import ImageStore
from mmpo.trainers.relevance import ClipEmbedder, Embedder, PolicyEmbedder, RelevanceTable
from mmpo.trainers.settings import CorruptionSettings, PerturbationSettings, TrainSettings
from mmpo.trainers.views import CORRUPTED, PERTURBED, ImageCorrupter, Perturber, ViewMaker


def view_maker(
    settings: TrainSettings, objective: Objective, vlm: VLM, store: ImageStore, rows: Sequence[EncodedPair]
) -> ViewMaker | None:
    """None where the objective compares with nothing but chosen and rejected. The relevance of all words of `rows` is
    computed now, and kept beside the pairs."""
    names = objective.views
    if not names:
        return None
    if split := next((row.id for row in rows if row.rejected_prompt is not None), None):
        raise UserError(
            f"pair {split}: its sides see different images, which this objective's views do not know",
            hint="use a loss on the pairs alone, such as dpo",
        )
    corrupt = perturb = None
    if any(CORRUPTED in name for name in names):
        wanted = settings.corruption or _authors_choice(objective)
        images = list(dict.fromkeys(key for row in rows for key in row.images))
        if blind := next((row.id for row in rows if not row.images), None):
            raise UserError(f"pair {blind} has no image to corrupt", hint="leave text-only pairs out")
        corrupt = ImageCorrupter(vlm, store, Corruption(wanted.kind, _whole(wanted.parameters)), images)
    if any(PERTURBED in name for name in names):
        perturb = _perturber(settings.perturbation or PerturbationSettings(), vlm, store, settings.pairs, rows)
    return ViewMaker(store, names, corrupt=corrupt, perturb=perturb, seed=settings.seed)


def _authors_choice(objective: Objective) -> CorruptionSettings:
    if objective.corruption is None:
        raise UserError("the losses of this objective corrupt images differently", hint="set corruption.kind")
    return CorruptionSettings.model_validate({"kind": objective.corruption})


def _whole(parameters: dict[str, float]) -> dict[str, float]:
    """Whole numbers as such: a diffusion step of 500.0 is step 500."""
    return {name: int(value) if value == int(value) else value for name, value in parameters.items()}


def _perturber(
    settings: PerturbationSettings, vlm: VLM, store: ImageStore, pairs: Path, rows: Sequence[EncodedPair]
) -> Perturber:
    embedder: Embedder = (
        PolicyEmbedder(vlm, store) if settings.relevance == "policy" else ClipEmbedder(settings.relevance, store)
    )
    table = RelevanceTable(pairs / "relevance", embedder, store)
    table.fill((key for row in rows for key in row.images), (word for row in rows for word, _ in row.words or ()))
    synonyms = read_lexicon(settings.lexicon) if settings.lexicon is not None else None
    return Perturber(
        vlm,
        table,
        how=settings.how,
        omega=settings.omega,
        cap=settings.cap,
        relevant=settings.words == "irrelevant",
        synonyms=synonyms,
    )


def read_lexicon(path: Path) -> Callable[[str], list[str]]:
    """A lookup of synonyms from a JSON or YAML map of word to list of words. Case of the first letter is kept."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: the synonyms can't be read: {error}") from error
    if not isinstance(entries, dict) or not all(
        isinstance(word, str) and isinstance(others, list) and all(isinstance(other, str) for other in others)
        for word, others in entries.items()
    ):
        raise UserError(f"{path}: expected a map of words to lists of words", hint="for instance big: [large, huge]")

    def synonyms(word: str) -> list[str]:
        found = entries.get(word.lower(), [])
        return [other.capitalize() for other in found] if word[:1].isupper() else list(found)

    return synonyms
