"""A multi-image build, from a file of single-image records to a folder of preference pairs.

    run_dir/
      source.json          what the build was started from; another source, other settings or another model are refused
      units/00000.json …   what each unit gave: candidates with answers, attention and counts; whole or not there
      pairs/               the dataset: shards, card.json, README.md, rejects.jsonl
      build_result.json    the result in numbers; written last

Killed at any moment and run again, a build goes on behind its last unit and ends with the same bytes. Units hold every
candidate, kept or not: `reselect` makes other pairs of them without a model.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import mmpo
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.shards import PairWriter
from mmpo.data_builders.mia.builder import MiaBuilder, PictureMaker, Prepared
from mmpo.data_builders.mia.plan import Item, plan, read_records
from mmpo.data_builders.mia.ratio import chosen_part
from mmpo.data_builders.mia.select import edit_distance, length_ratio, threshold, verdict
from mmpo.data_builders.mia.settings import MiaBuildResult, MiaSettings
from mmpo.data_builders.units import (
    Advance,
    Work,
    check_source,
    check_sums,
    count_table,
    file_digest,
    finish_units,
    ordered,
    read_outcomes,
    read_unit,
    unit_paths,
)
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import read_json, write_json
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.files.paths import follows_links
from mmpo.locks import in_own_folder, locked
from mmpo.models.families.interleaved import keeps_order
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.progress import task
from mmpo.resuming import deciding

logger = logging.getLogger("mmpo.build")

RESULT = "build_result.json"
PARTS = ("mean", "sum", "blocks", "exact", "only_regions")
SCORES = (
    "attention_ratio", "attention_target", "attention_all", "attention_uniform", "attention_threshold",
    *(f"ratio_{name}" for name in PARTS), "perplexity", "length_ratio", "edit_distance",
)  # fmt: skip


@follows_links
@in_own_folder
def build(settings: MiaSettings, run_dir: Path) -> MiaBuildResult:
    """Build the pairs of `settings` into `run_dir/pairs`. A finished build returns its result.

    Raises UserError for settings that don't fit the files or what is in `run_dir`. Records and pictures that can't be
    used are counted and end in `pairs/rejects.jsonl`, never in an error.
    """
    run_dir = Path(run_dir)
    root = _root(settings)
    items, records = _planned(settings)
    recipe = deciding(settings)
    finished = (run_dir / RESULT).exists()
    source = {
        "settings": {key: value for key, value in recipe.items() if key != "selection"},
        "selection": recipe["selection"],
        "mmpo": mmpo.__version__,
        "content of data": file_digest(settings.data),
        "content of the model's files": _model(settings, run_dir, finished),
    }
    check_source(run_dir, source)
    if finished:
        return MiaBuildResult.model_validate(read_json(run_dir / RESULT))
    maker = PictureMaker(settings, root)
    label = "answering about several images"
    paths = finish_units(run_dir / "units", items, settings.shard_size, label, lambda _: _work(settings, maker))
    result = _assemble(settings, recipe, run_dir, items, records, paths, maker)
    write_json(run_dir / RESULT, result.model_dump(mode="json"))
    logger.info("%s", count_table(result.counts))
    return result


def _work(settings: MiaSettings, maker: PictureMaker) -> Work[Item]:
    """Loads the model; then each unit holds its answers with their attention, and how they were made."""
    vlm = load_vlm(
        settings.model,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
        allow_network=settings.allow_network,
    )
    warnings: list[str] = []
    if settings.sequence is not None and not keeps_order(vlm):
        warnings.append(
            "the model's chat template shows all images before the text, so the labels Image1, Image2, … don't "
            "stand beside their images; give the model folder a template that keeps their order"
        )
    engine = AnswerEngine(vlm, max_new_tokens=settings.max_new_tokens, token_budget=settings.tokens_per_batch)
    builder = MiaBuilder(settings, engine, maker, mmpo.__version__)

    def work(number: int, part: Sequence[Item], advance: Advance) -> dict[str, Any]:
        outcomes = builder.build(part)
        advance(len(part))
        return {"layers": list(builder.probe.layers), "warnings": warnings, "outcomes": outcomes}

    return work


def reselect(run_dir: Path, out: Path, changes: Mapping[str, Any]) -> MiaBuildResult:
    """Other pairs of a build's candidates: its selection settings with `changes`, written to `out`. No model is loaded;
    the source pictures must still be there. Raises UserError for a folder without a whole build, or for wrong
    settings."""
    source_file = Path(run_dir) / "source.json"
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
    if file_digest(settings.data) != source["content of data"]:
        raise UserError(f"{settings.data} has changed since the build", hint="build again")
    items, records = _planned(settings)
    paths = unit_paths(Path(run_dir) / "units", len(items), settings.shard_size)
    if missing := [path for path in paths if not path.exists()]:
        raise UserError(f"{run_dir}: the build is not complete ({missing[0].name} is missing)", hint="finish it first")
    recipe = deciding(settings)
    maker = PictureMaker(settings, _root(settings))
    with locked(out):
        if (Path(out) / "data").exists():
            raise UserError(f"{out} holds pairs already", hint="give --out another folder")
        return _assemble(settings, recipe, None, items, records, paths, maker, out=Path(out))


def _planned(settings: MiaSettings) -> tuple[list[Item], Counter[str]]:
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


def _root(settings: MiaSettings) -> Path:
    root = settings.images if settings.images is not None else settings.data.parent
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images", hint=f"where the paths of {settings.data.name} start")
    return root


def _model(settings: MiaSettings, run_dir: Path, finished: bool) -> str:
    """What the model's files hold; what it was before, where a finished build no longer needs a model that is gone."""
    try:
        return folder_fingerprint(model_folder(settings.model))
    except UserError:
        if finished:
            return str(read_json(run_dir / "source.json").get("content of the model's files"))
        if not settings.allow_network:
            raise
    load_vlm(settings.model, trust_remote_code=settings.trust_remote_code, allow_network=True)  # fetches it
    return folder_fingerprint(model_folder(settings.model))


def _assemble(
    settings: MiaSettings,
    recipe: dict[str, Any],
    run_dir: Path | None,
    items: list[Item],
    records: Counter[str],
    units: list[Path],
    maker: PictureMaker,
    out: Path | None = None,
) -> MiaBuildResult:
    """Select among the candidates of the finished units and write the dataset."""
    folder = out if run_dir is None else run_dir / "pairs"
    assert folder is not None
    tally = _Tally(settings)
    warnings: dict[str, None] = {}
    layers: list[int] = []
    for path in units:
        unit = read_unit(path)
        layers = unit["layers"]
        warnings |= dict.fromkeys(unit["warnings"])
    for item, outcome in zip(items, read_outcomes(units), strict=True):
        tally.add(item, outcome)
    writer = PairWriter(folder, recipe=recipe, scores=SCORES)
    with task("writing pairs", total=len(items)) as running:
        running.advance(writer.sources_done)
        for item, outcome in islice(zip(items, read_outcomes(units), strict=True), writer.sources_done, None):
            kept = [c for c in outcome["candidates"] if not verdict(c, settings.attention, settings.selection)]
            if not kept:
                writer.reject(item.id, _why(outcome, settings))
            else:
                try:
                    prepared = maker.prepare(item)
                except Quarantined as error:  # it was there when the unit was made
                    writer.reject(item.id, error)
                else:
                    writer.add(*(_pair(candidate, prepared, settings, layers) for candidate in kept))
            running.advance()
    result = _result(settings, tally, writer, records, list(warnings))
    writer.close(title="Multi-image pairs", notes=_notes(result))
    return result


def _why(outcome: Mapping[str, Any], settings: MiaSettings) -> Quarantined:
    if not outcome["candidates"]:
        return Quarantined(outcome["stage"], outcome["reason"], outcome["detail"])
    return Quarantined("filter", verdict(outcome["candidates"][0], settings.attention, settings.selection))


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
    """Where prompts and answers went, and what the ratios were."""

    def __init__(self, settings: MiaSettings) -> None:
        self.settings = settings
        self.answers: dict[str, Counter[str]] = {}
        self.sums: dict[str, dict[str, float]] = {}
        self.words: Counter[str] = Counter()

    def add(self, item: Item, outcome: Mapping[str, Any]) -> None:
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


def _result(
    settings: MiaSettings, tally: _Tally, writer: PairWriter, records: Counter[str], warnings: list[str]
) -> MiaBuildResult:
    rejected = {reason.replace("/", ": "): count for reason, count in writer.counts.reasons.items()}
    prompts = writer.counts.kept + writer.counts.rejected
    counts = {
        "records": ordered(records, ("in", "used")),
        "prompts": ordered({"in": prompts, "paired": writer.counts.kept, **rejected}),
        **{f"answers, {kind}": ordered(table) for kind, table in sorted(tally.answers.items())},
    }
    check_sums(counts)
    pairs = tally.words["pairs"]
    return MiaBuildResult(
        pairs="pairs",
        images=prompts,
        images_used=writer.counts.kept,
        pairs_made=writer.counts.pairs,
        counts=counts,
        ratios=tally.ratios,
        chosen_words=round(tally.words["chosen"] / pairs, 4) if pairs else 0.0,
        rejected_words=round(tally.words["rejected"] / pairs, 4) if pairs else 0.0,
        warnings=warnings,
    )


def _notes(result: MiaBuildResult) -> str:
    """What the dataset's page says about the build."""
    ratios = [
        "| prompts | answers | mean ratio | uniform | threshold |\n| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {kind} | {row['answers']:.0f} | {row['ratio']:.3f} | {row['uniform']:.3f} | {row['threshold']:.3f} |"
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
