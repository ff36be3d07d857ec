"""How right are the verdicts of evidence? The demo world, whose truth is exact; three seeds.

    python benchmarks/evidence_demo.py --out runs/evidence_demo [--seeds 0 1 2] [--quick]

The model describes 200 scenes a seed, greedily and by 9 samples, and each class that it claims is judged by

    self raw                  yes against no in the mean of the wordings that ask for presence: no cut is learnt
    self unlabelled           the cut found in the numbers of all claims (Otsu)
    self calibrated           wordings and cuts from the claims on 100 other scenes with truth (the controls)
    noisy oracle assumed      NOT a detector: true boxes, missed and made up at the rates --miss and --false, with the
                              cuts that detectors have without controls (benchmarks/noisy_oracle.py)
    noisy oracle calibrated   the same, with cuts from the controls
    agreement unlabelled      both without controls; what they do not agree about is uncertain
    agreement calibrated      both with controls

Against the truth: precision and recall of `present` and of `absent` (uncertain claims lower recall), coverage (share of
claims with another verdict than uncertain), AUROC of the number (of agreement: of its verdict as -1, 0, 1), and ECE of
the confidence in verdicts that are given (10 bins of equal count; of `self raw` the confidence is the larger of P(yes)
and P(no); sources without controls have none). All claims, and those of classes whose usual partner is in the scene,
of other classes of the same place, and of classes from elsewhere. 95% intervals are over resamples of whole scenes of
all seeds; cuts and bins are kept, so what another set of controls would change is seen between seeds only.

A seed takes about two minutes of one core. One file a seed: killed
and run again it goes on, with other arguments it refuses. Writes results.json and table.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells, noisy_oracle
from mmpo.data.annotations.read import read_annotations
from mmpo.data.truth import truth_of
from mmpo.data_builders.candidates.build import CandidateBuild
from mmpo.data_builders.candidates.judging import claims_of, findings_of, fitted_of, only
from mmpo.data_builders.candidates.responding import candidate_of
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.units import read_outcomes
from mmpo.demo import model_path
from mmpo.demo.things import HOME, PARTNER
from mmpo.errors import in_one_line
from mmpo.evidence.cuts import VerdictCuts
from mmpo.evidence.evidence import Evidence, PictureFindings
from mmpo.evidence.records import CombinedOpinion, Opinion
from mmpo.files.atomic import read_json, write_json
from mmpo.statistics import Array, auroc, bootstrap_interval, percentile_interval, ratio, resampled_auroc
from mmpo.text.vocabulary import ObjectVocabulary

SYSTEMS = (
    "self raw", "self unlabelled", "self calibrated", "noisy oracle assumed", "noisy oracle calibrated",
    "agreement unlabelled", "agreement calibrated",
)  # fmt: skip
RELATIONS = ("all", "partner present", "same place", "elsewhere")
SHARES = {
    "present precision": ("present", True, "said"),
    "present recall": ("present", True, "true"),
    "absent precision": ("absent", False, "said"),
    "absent recall": ("absent", False, "true"),
}
METRICS = (*SHARES, "coverage", "AUROC", "ECE")
BINS = 10


def relation(name: str, things: frozenset[str], place: str) -> str:
    """How a class stands to a scene of `things` in `place`."""
    if PARTNER[name] in things:
        return "partner present"
    return "same place" if HOME[name].name == place else "elsewhere"


# ---- a seed's verdicts


def settings_of(args: argparse.Namespace, folder: Path, seed: int) -> CandidateSettings:
    scenes, controls = cells.draw(folder, "test", args.images, seed), cells.draw(folder, "dev", args.controls, seed)
    truth = [scenes / "annotations.jsonl", controls / "annotations.jsonl"]
    oracle = {"source": noisy_oracle.NAME, "truth": truth, "miss": args.miss, "false": args.false, "seed": seed}
    return CandidateSettings.model_validate({
        "builder": "candidates",
        "model": str(args.model),
        "images": scenes / "images",
        "vocabulary": str(scenes / "vocabulary.json"),
        "samples": args.samples,
        "max_new_tokens": 96,
        "near_duplicates": False,
        "log_probs": False,
        "drawn": 0,
        "evidence": [{"source": "self"}, oracle],
        "controls": {"annotations": controls / "annotations.jsonl"},
        "precision": args.precision,
        "seed": seed,
    })  # fmt: skip


def claims_of_seed(args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Every claim about the seed's scenes with its truth and what each system says; made once."""
    done = args.out / f"seed-{seed}" / "claims.json"
    if not done.exists():
        folder = args.out / f"seed-{seed}"
        write_json(done, list(_judge(settings_of(args, folder, seed), folder)))
    return list(read_json(done))


def _judge(settings: CandidateSettings, folder: Path) -> Iterator[dict[str, Any]]:
    run = folder / "build"
    vocabulary = ObjectVocabulary.from_file(settings.vocabulary)
    scenes = {Path(image.path).name: image for image in read_annotations(folder / "world/test/annotations.jsonl")}
    with ExitStack() as stack:
        made = CandidateBuild(settings, run, stack)
        made.run()
        said = read_outcomes(sorted((run / "units").glob("*.json")))
        claimed = [claims_of([candidate_of(row) for row in one["candidates"]]) for one in said]
        rows = read_outcomes(sorted((run / "findings").glob("*.json")))
        found = [only(findings_of(row["findings"]), own) for row, own in zip(rows, claimed, strict=True)]
        paths = [photo.path for photo in made.used]
        evidence = made.evidence
        bare = Evidence.open(
            settings.model_copy(update={"controls": None}), vocabulary, run / "evidence", stack,
            engine=made.engine, model=made.model,
        )  # fmt: skip
        assumed = bare.cuts(found)
        fitted = fitted_of(read_json(run / "evidence" / "controls.json"))
        for path, one in zip(paths, found, strict=True):
            scene = scenes[Path(path).name]
            things = truth_of(scene, vocabulary).names
            systems = opinions(one, bare.judged(one, assumed), evidence.judged(one, fitted))
            for name in systems:
                place = str(scene_place(folder, path))
                yield {
                    "scene": path,
                    "name": name,
                    "true": name in things,
                    "relation": relation(name, things, place),
                    "systems": systems[name],
                }


_PLACES: dict[Path, dict[str, str]] = {}


def scene_place(folder: Path, path: str) -> str:
    """The place of a scene, which only the world's own file has."""
    from mmpo.data.records import read_records

    file = folder / "world/test/annotations.jsonl"
    if file not in _PLACES:
        _PLACES[file] = {Path(str(row["image"])).name: str(row["place"]) for _, row in read_records(file)}
    return _PLACES[file][Path(path).name]


def opinions(
    found: PictureFindings, bare: Mapping[str, CombinedOpinion], fitted: Mapping[str, CombinedOpinion]
) -> dict[str, dict[str, dict[str, Any]]]:
    """By class and system: verdict, number (None where it abstains) and confidence."""
    return {
        name: {
            "self raw": raw(found["self"][name].z),
            "self unlabelled": _row(bare[name].by["self"]),
            "self calibrated": _row(fitted[name].by["self"]),
            "noisy oracle assumed": _row(bare[name].by[noisy_oracle.NAME]),
            "noisy oracle calibrated": _row(fitted[name].by[noisy_oracle.NAME]),
            "agreement unlabelled": _together(bare[name]),
            "agreement calibrated": _together(fitted[name]),
        }
        for name in bare
    }


def raw(z: float | None) -> dict[str, Any]:
    """yes > no, with P of the answer (of yes and no) as its confidence."""
    if z is None:
        return {"verdict": "uncertain", "z": None, "confidence": None}
    verdict = VerdictCuts(float(np.nextafter(0, 1)), float(np.nextafter(0, 1))).verdict(z)
    return {"verdict": verdict, "z": z, "confidence": float(1 / (1 + np.exp(-abs(z))))}


def _row(one: Opinion) -> dict[str, Any]:
    return {"verdict": one.verdict or "uncertain", "z": one.z, "confidence": one.confidence}


def _together(one: CombinedOpinion) -> dict[str, Any]:
    return {
        "verdict": one.verdict,
        "z": {"absent": -1.0, "uncertain": 0.0, "present": 1.0}[one.verdict],
        "confidence": None if one.verdict == "uncertain" else one.confidence,
    }


# ---- their quality


def estimate(value: float, interval: Any) -> dict[str, float]:
    return {"value": float(value), "low": float(interval.low), "high": float(interval.high)}


def measure(claims: Sequence[Mapping[str, Any]], system: str, resamples: int) -> dict[str, Any]:
    """The metrics of a system over claims, with intervals over scenes; None where nothing defines one."""
    own = [claim["systems"][system] for claim in claims]
    scene = np.unique([claim["scene"] for claim in claims], return_inverse=True)[1]
    scenes = int(scene.max()) + 1
    verdict = np.array([one["verdict"] for one in own])
    true = np.array([claim["true"] for claim in claims], bool)

    def share(hits: Array, of: Array) -> dict[str, float] | None:
        counts = np.zeros((scenes, 2))
        np.add.at(counts, scene, np.stack([hits & of, of], axis=1).astype(float))
        if not counts[:, 1].sum():
            return None
        # a resample without any of what is counted tells nothing; dividing by 0 gives 0 there, the wide side
        interval = bootstrap_interval(counts, lambda sums: ratio(sums[..., 0], sums[..., 1]), samples=resamples, seed=0)
        return estimate(counts[:, 0].sum() / counts[:, 1].sum(), interval)

    found: dict[str, Any] = {"claims": len(claims), "absent claims": int((~true).sum()), "scenes": scenes}
    for name, (side, right, of) in SHARES.items():
        said, is_so = verdict == side, true == right
        found[name] = share(said & is_so, said if of == "said" else is_so)
    found["coverage"] = share(verdict != "uncertain", np.ones(len(own), bool))
    found["AUROC"] = _auroc(own, true, scene, resamples)
    found["ECE"] = _ece(own, verdict, true, scene, resamples)
    return found


def _auroc(own: Sequence[Mapping[str, Any]], true: Array, scene: Array, resamples: int) -> dict[str, float] | None:
    known = np.array([one["z"] is not None for one in own])
    right = true[known]
    if not right.any() or right.all():
        return None
    z = np.array([one["z"] for one in own if one["z"] is not None], float)
    place = np.unique(scene[known], return_inverse=True)[1]
    images = int(place.max()) + 1
    values = resampled_auroc(z, right, place, images, samples=resamples, seed=0)
    return estimate(float(auroc(z, right)), percentile_interval(values, images=images))


def _ece(
    own: Sequence[Mapping[str, Any]], verdict: Array, true: Array, scene: Array, resamples: int
) -> dict[str, float] | None:
    known = np.array([one["confidence"] is not None and one["verdict"] != "uncertain" for one in own])
    if not known.any():
        return None
    p = np.array([one["confidence"] for one, is_known in zip(own, known, strict=True) if is_known], float)
    right = (verdict == np.where(true, "present", "absent"))[known]
    place = np.unique(scene[known], return_inverse=True)[1]
    counts = np.zeros((int(place.max()) + 1, BINS + 1))
    for number, part in enumerate(np.array_split(np.argsort(p, kind="stable"), BINS)):
        np.add.at(counts, (place[part], number), p[part] - right[part])
    np.add.at(counts, (place, BINS), 1.0)

    def ece(sums: Array) -> Array:
        return np.asarray(ratio(np.abs(sums[..., :BINS]).sum(-1), sums[..., BINS]))

    interval = bootstrap_interval(counts, ece, samples=resamples, seed=0)
    return estimate(float(ece(counts.sum(0))), interval)


def measured(seeds: Mapping[str, Sequence[Mapping[str, Any]]], resamples: int) -> dict[str, Any]:
    """By relation and system, all seeds together and each alone (`seeds[seed]`)."""
    pooled = [{**claim, "scene": f"{seed}/{claim['scene']}"} for seed, claims in seeds.items() for claim in claims]

    def of(claims: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        parts = {name: [one for one in claims if name in ("all", one["relation"])] for name in RELATIONS}
        return {
            name: {system: measure(part, system, resamples) for system in SYSTEMS}
            for name, part in parts.items()
            if part
        }

    return {"pooled": of(pooled), "seeds": {seed: of(claims) for seed, claims in seeds.items() if claims}}


def table(results: Mapping[str, Any]) -> str:
    """Markdown: percent with 95% intervals, a table for each relation; behind it each seed's values."""
    lines: list[str] = []
    for name, systems in results["pooled"].items():
        first = next(iter(systems.values()))
        told = f"{first['claims']} claims, {first['absent claims']} of them absent, {first['scenes']} scenes"
        lines += [f"**{name}** ({told})", "", *_table(systems, lambda one: _shown(one)), ""]
    lines += ["**all, by seed** (without intervals)", ""]
    for seed, found in results["seeds"].items():
        rows = _table(found["all"], lambda one: f"{100 * one['value']:.1f}" if one else "–")
        lines += [f"seed {seed}", "", *rows, ""]
    return "\n".join(lines)


def _table(systems: Mapping[str, Mapping[str, Any]], shown: Any) -> list[str]:
    lines = [f"| source, % | {' | '.join(METRICS)} |", "| --- |" + " --- |" * len(METRICS)]
    return lines + [
        f"| {name} | {' | '.join(shown(row[metric]) for metric in METRICS)} |" for name, row in systems.items()
    ]


def _shown(one: Mapping[str, float] | None) -> str:
    if one is None:
        return "–"
    value, low, high = (100 * one[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = cells.command_line(__doc__)
    parser.add_argument("--images", type=int, default=200, help="scenes whose claims are judged")
    parser.add_argument("--controls", type=int, default=100, help="other scenes, to calibrate on")
    parser.add_argument("--precision", type=float, default=0.9, help="of verdicts, that controls must show")
    parser.add_argument("--samples", type=int, default=9, help="descriptions of a scene beside the greedy one")
    parser.add_argument("--miss", type=float, default=0.1, help="share of true boxes that the noisy oracle misses")
    parser.add_argument("--false", type=float, default=0.05, help="share of absent classes it has a false box of")
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    args.model = args.model or model_path()
    if args.quick:
        args.images, args.controls, args.samples, args.resamples = 6, 6, 1, 200
    given = cells.open_comparison(args.out, args, free=("out", "seeds"))
    seeds: dict[str, Any] = {}
    for seed in args.seeds:
        seeds[str(seed)] = claims_of_seed(args, seed)
        print(f"seed {seed}: {len(seeds[str(seed)])} claims are judged", flush=True)
    if not any(seeds.values()):
        raise SystemExit("the model claims nothing about any scene")
    results = {"arguments": given, **measured(seeds, args.resamples)}
    cells.save(args.out, results, table(results))
    print(table(results))


if __name__ == "__main__":
    in_one_line(main)
