"""Multi-image pairs of single-image records. Units hold every candidate, kept or not (`mmpo.data_builders.run`):
`reselect` makes other pairs of them without a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import mmpo
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data_builders.mia.builder import MiaBuilder, PictureMaker, Prepared
from mmpo.data_builders.mia.plan import ComposedPrompt, plan, read_records
from mmpo.data_builders.mia.ratio import chosen_part
from mmpo.data_builders.mia.select import edit_distance, length_ratio, threshold, verdict
from mmpo.data_builders.mia.settings import MiaBuildResult, MiaSettings
from mmpo.data_builders.models import model_contents, open_answerer
from mmpo.data_builders.run import Builder, Written, assemble
from mmpo.data_builders.units import SOURCE, Advance, Units, Work, count_table, file_digest, ordered, unit_paths
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import read_json
from mmpo.locks import locked
from mmpo.models.families.interleaved import keeps_order
from mmpo.models.generation.answer import AnswerEngine

MODEL, DATA = "content of the model's files", "content of data"
PARTS = ("mean", "sum", "blocks", "exact", "only_regions")
SCORES = (
    "attention_ratio", "attention_target", "attention_all", "attention_uniform", "attention_threshold",
    *(f"ratio_{name}" for name in PARTS), "perplexity", "length_ratio", "edit_distance",
)  # fmt: skip


class MiaPairs(Builder[MiaSettings, ComposedPrompt, MiaBuildResult]):
    """Pairs from answers that looked at the wrong picture (after MIA-DPO)."""

    result = MiaBuildResult
    label = "answering about several images"
    title = "Multi-image pairs"
    scores = SCORES

    @cached_property
    def maker(self) -> PictureMaker:
        settings = self.settings
        root = settings.images if settings.images is not None else settings.data.parent
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of images", hint=f"where the paths of {settings.data.name} start")
        return PictureMaker(settings, root)

    @cached_property
    def planned(self) -> tuple[list[ComposedPrompt], Counter[str]]:
        """The prompts, and where the records went."""
        return _planned(self.settings)

    def plan(self) -> Sequence[ComposedPrompt]:
        _ = self.maker  # its folder is there
        return self.planned[0]

    def source(self) -> dict[str, Any]:
        return {
            "settings": {key: value for key, value in self.recipe.items() if key != "selection"},
            "selection": self.recipe["selection"],
            "mmpo": mmpo.__version__,
            DATA: file_digest(self.settings.data),
            MODEL: model_contents(self.settings.model, self.settings, self.run_dir, MODEL),
        }

    def open(self, stack: ExitStack) -> Work[ComposedPrompt]:
        """Each unit holds its answers with their attention, and how they were made."""
        settings = self.settings
        engine = open_answerer(settings.model, settings, self.run_dir, stack, token_budget=settings.tokens_per_batch)
        assert isinstance(engine, AnswerEngine)
        warnings: list[str] = []
        if settings.sequence is not None and not keeps_order(engine.vlm):
            warnings.append(
                "the model's chat template shows all images before the text, so the labels Image1, Image2, … don't "
                "stand beside their images; give the model folder a template that keeps their order"
            )
        builder = MiaBuilder(settings, engine, self.maker, mmpo.__version__)

        def work(number: int, part: Sequence[ComposedPrompt], advance: Advance) -> dict[str, Any]:
            outcomes = builder.build(part)
            advance(len(part))
            return {"layers": list(builder.probe.layers), "warnings": warnings, "outcomes": outcomes}

        return work

    def pairs(
        self, source: ComposedPrompt, outcome: Mapping[str, Any], units: Units[ComposedPrompt]
    ) -> list[PreferencePair]:
        settings = self.settings
        if not outcome["candidates"]:
            raise Quarantined(outcome["stage"], outcome["reason"], outcome["detail"])
        verdicts = [verdict(one, settings.attention, settings.selection) for one in outcome["candidates"]]
        kept = [one for one, why in zip(outcome["candidates"], verdicts, strict=True) if not why]
        if not kept:
            raise Quarantined("filter", verdicts[0])
        prepared = self.maker.prepare(source)  # Quarantined, if a picture is gone since the unit was made
        return [_pair(one, prepared, settings, units.facts[-1]["layers"]) for one in kept]

    def summary(self, units: Units[ComposedPrompt], written: Written) -> MiaBuildResult:
        _, records = self.planned
        tally = _Tally(self.settings)
        for item, outcome in units.outcomes():
            tally.add(item, outcome)
        counts = {
            "records": ordered(records, ("in", "used")),
            "prompts": ordered(written.table),
            **{f"answers, {kind}": ordered(table) for kind, table in sorted(tally.answers.items())},
        }
        words, pairs = tally.words, tally.words["pairs"]
        return MiaBuildResult(
            pairs="pairs",
            images=written.table["in"],
            images_used=written.table["paired"],
            pairs_made=written.pairs,
            counts=counts,
            ratios=tally.ratios,
            chosen_words=round(words["chosen"] / pairs, 4) if pairs else 0.0,
            rejected_words=round(words["rejected"] / pairs, 4) if pairs else 0.0,
            warnings=list(dict.fromkeys(warning for unit in units.facts for warning in unit["warnings"])),
        )

    def notes(self, result: MiaBuildResult) -> str:
        ratios = [
            "| prompts | answers | mean ratio | uniform | threshold |\n| --- | ---: | ---: | ---: | ---: |",
            *(
                f"| {kind} | {row['answers']:.0f} | {row['ratio']:.3f} | {row['uniform']:.3f} | "
                f"{row['threshold']:.3f} |"
                for kind, row in result.ratios.items()
            ),
        ]
        return "\n\n".join(
            [
                f"{result.pairs_made} pairs from {result.images_used} prompts with several pictures (chosen "
                f"{result.chosen_words:.1f} words, rejected {result.rejected_words:.1f}).",
                *(f"Warning: {warning}." for warning in result.warnings),
                "Attention on the target's picture while the model answered:",
                "\n".join(ratios),
                count_table(result.counts),
            ]
        )


def reselect(run_dir: Path, out: Path, changes: Mapping[str, Any]) -> MiaBuildResult:
    """Other pairs of a build's candidates: its selection settings with `changes`, written to `out`. No model is loaded;
    the source pictures must still be there. Raises UserError for a folder without a whole build, or for wrong
    settings."""
    source_file = Path(run_dir) / SOURCE
    if not source_file.exists():
        raise UserError(f"{run_dir}: no build's folder (no source.json)", hint="give the folder that holds units/")
    source = read_json(source_file)
    if source.get("settings", {}).get("builder") != "mia":
        raise UserError(f"{run_dir}: not a build of several images", hint="only `builder: mia` keeps its candidates")
    selection = {**source["selection"], **changes}
    try:
        settings = MiaSettings.model_validate({**source["settings"], "selection": selection})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"--set {place.removeprefix('selection.')}: {first['msg']}") from None
    if file_digest(settings.data) != source[DATA]:
        raise UserError(f"{settings.data} has changed since the build", hint="build again")
    builder = MiaPairs(settings, Path(run_dir))
    items = builder.plan()
    paths = unit_paths(Path(run_dir) / "units", len(items), settings.shard_size)
    if missing := [path for path in paths if not path.exists()]:
        raise UserError(f"{run_dir}: the build is not complete ({missing[0].name} is missing)", hint="finish it first")
    with locked(out):
        if (Path(out) / "data").exists():
            raise UserError(f"{out} holds pairs already", hint="give --out another folder")
        return assemble(builder, Units(items, paths), {"pairs": Path(out)})


def _planned(settings: MiaSettings) -> tuple[list[ComposedPrompt], Counter[str]]:
    records, counts = read_records(settings.data, settings.limit)
    if not records:
        lost = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != "in")
        raise UserError(f"{settings.data}: no usable records ({lost or 'it is empty'})")
    items = plan(records, settings)
    if not items:
        raise UserError(
            f"{settings.data}: none of the {len(records)} records fits the settings",
            hint="answers longer than max_chosen_characters and boxes drop out, and `share` decides how many are used",
        )
    long = {record.id for record in records if len(record.answer) > settings.max_chosen_characters}
    used = {target.record.id for item in items for target in item.targets}
    counts["answer_too_long"] = len(long - used)
    counts["used"] = len(used)
    counts["not_needed"] = len(records) - len(used) - counts["answer_too_long"]
    return items, counts


def _pair(candidate: Mapping[str, Any], prepared: Prepared, settings: MiaSettings, layers: list[int]) -> PreferencePair:
    item = prepared.item
    measures = settings.attention
    scores = {
        "perplexity": candidate["perplexity"],
        "length_ratio": length_ratio(candidate["chosen"], candidate["rejected"]),
        "edit_distance": edit_distance(candidate["chosen"], candidate["rejected"]),
    }
    if candidate["parts"]:
        part = candidate["parts"][chosen_part(item.layout, measures.sequence, measures.regions)]
        scores |= {
            "attention_ratio": part["ratio"],
            "attention_target": part["target"],
            "attention_all": part["all"],
            "attention_uniform": part["uniform"],
            **{f"ratio_{name}": other["ratio"] for name, other in candidate["parts"].items()},
        }
        limit = threshold(candidate, measures, settings.selection)
        if limit is not None:
            scores["attention_threshold"] = limit
    record = next(target.record for target in item.targets if target.index == candidate["index"])
    return PreferencePair(
        id=candidate["id"],
        prompt=candidate["prompt"],
        chosen=[text_message("assistant", candidate["chosen"])],
        rejected=[text_message("assistant", candidate["rejected"])],
        images=list(prepared.images),
        scores=scores,
        provenance={
            "builder": settings.builder,
            "version": mmpo.__version__,
            "sources": [record.id],
            "seed": settings.seed,
            "layout": item.layout,
            "pictures": list(item.pictures),
            "target": candidate["index"],
            "regions": [list(box) for box in prepared.regions],
            "refusal": candidate["refusal"],
            "attention": {
                "layers": layers,
                "heads": measures.heads,
                "reduce": measures.reduce,
                "predictive": measures.predictive,
                "measure": chosen_part(item.layout, measures.sequence, measures.regions),
                "parts": candidate["parts"],
                "maps": candidate["maps"],
            },
        },
    )


class _Tally:
    """Counts of prompts and answers, kept and lost, and their attention ratios."""

    def __init__(self, settings: MiaSettings) -> None:
        self.settings = settings
        self.answers: dict[str, Counter[str]] = {}
        self.sums: dict[str, dict[str, float]] = {}
        self.words: Counter[str] = Counter()

    def add(self, item: ComposedPrompt, outcome: Mapping[str, Any]) -> None:
        for candidate in outcome["candidates"]:
            kind = item.layout if item.layout == "pic_in_pic" else f"{item.layout} {item.n}"
            kind = "refusals" if item.refusal else kind
            table = self.answers.setdefault(kind, Counter())
            why = verdict(candidate, self.settings.attention, self.settings.selection)
            table["in"] += 1
            table[why or "paired"] += 1
            if not why:
                self.words["pairs"] += 1
                self.words["chosen"] += len(candidate["chosen"].split())
                self.words["rejected"] += len(candidate["rejected"].split())
            if candidate["parts"]:
                own = self.settings.attention
                part = candidate["parts"][chosen_part(item.layout, own.sequence, own.regions)]
                limit = threshold(candidate, own, self.settings.selection) or 0.0
                sums = self.sums.setdefault(kind, dict.fromkeys(("n", "ratio", "uniform", "threshold"), 0.0))
                for name, value in {"n": 1.0, **part, "threshold": limit}.items():
                    if name in sums:
                        sums[name] += value

    @property
    def ratios(self) -> dict[str, dict[str, float]]:
        return {
            kind: {
                "answers": sums["n"],
                **{name: round(sums[name] / sums["n"], 4) for name in ("ratio", "uniform", "threshold")},
            }
            for kind, sums in sorted(self.sums.items())
        }
