"""The views that an objective needs, as the settings of a run describe them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mmpo.data.corruption import NEAREST, Corruption
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.objectives import Objective
from mmpo.text.synonyms import synonyms_of
from mmpo.trainers.collate import EncodedPair
from mmpo.trainers.images import ImageStore
from mmpo.trainers.settings import TrainSettings
from mmpo.trainers.view_settings import CorruptionSettings, DisturbanceSettings, PerturbationSettings
from mmpo.trainers.views.disturb import OfficialTarsPerturber
from mmpo.trainers.views.others import OtherAnswers
from mmpo.trainers.views.perturb import Perturber
from mmpo.trainers.views.relevance import ClipEmbedder, Embedder, PolicyEmbedder, RelevanceTable
from mmpo.trainers.views.views import ImageCorrupter, ViewMaker


def view_maker(
    settings: TrainSettings,
    objective: Objective,
    vlm: VLM,
    store: ImageStore,
    rows: Sequence[EncodedPair],
    held_out: Iterable[str] = (),
) -> ViewMaker | None:
    """None where the objective compares with nothing but chosen and rejected. The relevance of all words of `rows` is
    computed now, and kept beside the pairs. `held_out` are the names of the pairs for evaluation among the rows."""
    views = objective.views
    if not views:
        return None
    if split := next((row.id for row in rows if row.rejected_prompt is not None), None):
        raise UserError(
            f"pair {split}: its sides see different images, which this objective's views do not know",
            hint="use a loss on the pairs alone, such as dpo",
        )
    corrupt = perturb = disturb = twins = others = None
    if any(view.image == "corrupted" for view in views):
        wanted = settings.corruption or _authors_choice(objective)
        images = list(dict.fromkeys(key for row in rows for key in row.images))
        if blind := next((row.id for row in rows if not row.images), None):
            raise UserError(f"pair {blind} has no image to corrupt", hint="leave text-only pairs out")
        corruption = Corruption(wanted.kind, _whole(wanted.parameters))
        similar: dict[str, str] = {}
        if wanted.kind == NEAREST:
            table = _table(wanted.relevance, "{}", vlm, store, settings.pairs)
            table.fill(images, ())
            for kind in ("image", "video"):
                if own := [key for key in images if store.kind(key) == kind]:
                    similar |= table.nearest(own)
        corrupt = ImageCorrupter(vlm, store, corruption, images, similar)
    levels = sorted({view.candidate for view in views if view.image == "partial"})
    hide = _hiders(settings, levels, vlm, store, rows) if levels else None
    if any(view.prompt == "perturbed" for view in views):
        perturb = _perturber(settings.perturbation or PerturbationSettings(), vlm, store, settings.pairs, rows)
    if any(view.prompt == "disturbed" for view in views):
        if several := next((row.id for row in rows if (row.chosen_turns, row.rejected_turns) != (None, None)), None):
            raise UserError(
                f"pair {several} has several turns, which perturbed sequences do not know", hint="use tars, or one turn"
            )
        disturb = _disturber(settings.disturbance or DisturbanceSettings(), vlm, store, settings.pairs, rows)
    if any("twin" in (view.side, view.image) for view in views):
        twins = _twins(rows)
    if any(view.side == "other" for view in views):
        others = OtherAnswers(rows, settings.seed, held_out)
    return ViewMaker(
        store,
        views,
        corrupt=corrupt,
        perturb=perturb,
        disturb=disturb,
        twins=twins,
        others=others,
        hide=hide,
        seed=settings.seed,
    )


def _hiders(
    settings: TrainSettings, levels: Sequence[int], vlm: VLM, store: ImageStore, rows: Sequence[EncodedPair]
) -> dict[int, ImageCorrupter]:
    """What hides parts of images, by level: level j of k hides j/k of the share that the last one hides."""
    if blind := next((row.id for row in rows if not row.images), None):
        raise UserError(f"pair {blind} has no image to hide a part of", hint="leave text-only pairs out")
    own = settings.corruption
    parameters = _whole(own.parameters) if own is not None and own.kind == "patches" else {}
    most = parameters.get("share", 1.0)
    return {
        level: ImageCorrupter(
            vlm, store, Corruption("patches", {**parameters, "share": most * level / max(levels)}), ()
        )
        for level in levels
    }


def _twins(rows: Sequence[EncodedPair]) -> dict[str, EncodedPair]:
    """The twin of each pair, by the pair's id."""
    known = {row.id: row for row in rows}
    for row in rows:
        if row.twin not in known:
            lacks = "names no twin" if row.twin is None else f"has the twin {row.twin}, which is not among the pairs"
            raise UserError(
                f"pair {row.id} {lacks}", hint="symmpo needs the `twin` of every pair, the id of another one"
            )
    return {row.id: known[row.twin] for row in rows if row.twin is not None}


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
    table = _table(settings.relevance, settings.template, vlm, store, pairs)
    perturber = Perturber(
        vlm,
        table,
        mode=settings.mode,
        omega=settings.omega,
        cap=settings.cap,
        relevant=settings.words == "irrelevant",
        unit=settings.unit,
        synonyms=synonyms_of(settings.synonyms, settings.lexicon) if settings.mode == "synonyms" else None,
    )
    table.fill((key for row in rows for key in row.images), (word for row in rows for word, _ in perturber.words(row)))
    return perturber


def _disturber(
    settings: DisturbanceSettings, vlm: VLM, store: ImageStore, pairs: Path, rows: Sequence[EncodedPair]
) -> OfficialTarsPerturber:
    table = _table(settings.relevance, settings.template, vlm, store, pairs)
    disturber = OfficialTarsPerturber(vlm, table, store, settings)
    table.fill((key for row in rows for key in row.images), sorted(disturber.texts(rows)))
    return disturber


def _table(relevance: str, template: str, vlm: VLM, store: ImageStore, pairs: Path) -> RelevanceTable:
    embedder: Embedder = (
        PolicyEmbedder(vlm, store) if relevance == "policy" else ClipEmbedder(relevance, store, template, vlm.device)
    )
    return RelevanceTable(pairs / "relevance", embedder, store)
