"""The benchmarks of evidence: the noisy oracle errs as it says, and the tables say what the claims say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import evidence_demo, noisy_oracle, photos_demo
from mmpo.demo.things import THINGS
from mmpo.demo.world import write_split
from mmpo.errors import UserError
from mmpo.evidence.controls import open_picture
from mmpo.evidence.records import EvidencePicture
from mmpo.evidence.source import EvidenceContext
from mmpo.text.vocabulary import ObjectVocabulary


def oracle(world: Path, **rates: Any) -> noisy_oracle.NoisyOracle:
    settings = noisy_oracle.NoisyOracleSettings(source="noisy_oracle", truth=[world / "annotations.jsonl"], **rates)
    return noisy_oracle.NoisyOracle(settings, EvidenceContext(ObjectVocabulary.from_file(world / "vocabulary.json")))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("world"), "test", 40)


def asked(world: Path) -> tuple[list[EvidencePicture], list[set[str]]]:
    rows = [json.loads(line) for line in (world / "annotations.jsonl").open()]
    pictures = [open_picture((world / row["image"]).read_bytes(), row["image"])[0] for row in rows]
    return pictures, [{item["name"] for item in row["objects"]} for row in rows]


def test_the_oracle_errs_at_its_rates_and_alone_or_together_the_same(world: Path) -> None:
    pictures, there = asked(world)
    seen = {True: [], False: []}  # type: dict[bool, list[bool]]
    source = oracle(world, miss=0.3, false=0.1, seed=3)
    found = source.find(pictures, [THINGS] * len(pictures))
    for own, names in zip(found, there, strict=True):
        for name, one in own.items():
            assert one.z is not None
            verdict = source.assumed_cuts([]).verdict(one.z)
            assert (verdict == "present") == bool(one.detail["boxes"])
            seen[name in names].append(verdict == "present")
    assert 0.6 < sum(seen[True]) / len(seen[True]) < 0.85  # doubled things are missed only if both boxes are
    assert 0.07 < sum(seen[False]) / len(seen[False]) < 0.13
    assert source.find(pictures[5:6], [["cow"]])[0]["cow"] == found[5]["cow"]


def test_without_errors_it_is_the_truth(world: Path) -> None:
    pictures, there = asked(world)
    for own, names in zip(oracle(world, miss=0, false=0).find(pictures, [THINGS] * 40), there, strict=True):
        assert {name for name, one in own.items() if one.detail["boxes"]} == names


def test_a_picture_without_truth_is_refused(world: Path) -> None:
    with pytest.raises(UserError, match="truth is not among"):
        oracle(world).find([EvidencePicture("0" * 64, b"", "x.png")], [["cow"]])


def claim(scene: str, true: bool, verdict: str, z: float, confidence: float | None = 0.9) -> dict[str, Any]:
    told = {"verdict": verdict, "z": z, "confidence": confidence}
    systems = dict.fromkeys(evidence_demo.SYSTEMS, told)
    return {"scene": scene, "name": "cow", "true": true, "relation": "partner present", "systems": systems}


def test_metrics_of_claims() -> None:
    claims = [claim("a", True, "present", 3), claim("a", False, "absent", -2), claim("b", True, "absent", -1)]
    claims += [
        claim("b", False, "present", 0.5),
        claim("c", True, "present", 2),
        claim("c", True, "uncertain", 0, None),
    ]
    found = evidence_demo.measure(claims, "self raw", 200)
    assert found["present precision"]["value"] == pytest.approx(2 / 3)
    assert found["present recall"]["value"] == pytest.approx(2 / 4)
    assert found["absent precision"]["value"] == found["absent recall"]["value"] == pytest.approx(1 / 2)
    assert found["coverage"]["value"] == pytest.approx(5 / 6)
    assert found["AUROC"]["value"] == pytest.approx(6 / 8)
    for name in ("present precision", "coverage", "AUROC"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    whole = evidence_demo.measured({"0": claims, "1": claims}, 100)
    assert whole["pooled"]["all"]["self raw"]["scenes"] == 6, "scenes of two seeds are not one"
    assert "same place" not in whole["pooled"]
    assert "66.7 [" in evidence_demo.table(whole)


def test_ece_is_confidence_against_right_verdicts() -> None:
    claims = [claim(str(number), True, "present" if number % 2 else "absent", 1.0, 0.5) for number in range(40)]
    assert evidence_demo.measure(claims, "self raw", 50)["ECE"]["value"] == pytest.approx(0.0, abs=1e-9)
    sure = [claim(str(number), False, "present", 1.0, 1.0) for number in range(40)]
    found = evidence_demo.measure(sure, "self raw", 50)
    assert found["ECE"]["value"] == 1 and found["present recall"] is None and found["AUROC"] is None


def test_yes_has_to_be_more_than_no() -> None:
    assert [evidence_demo.raw(z)["verdict"] for z in (0.1, 0.0, -3.0)] == ["present", "absent", "absent"]


def test_relations_of_a_class_to_a_scene() -> None:
    kitchen = frozenset({"pan"})
    told = [evidence_demo.relation(name, kitchen, "kitchen") for name in ("knife", "cup", "cow")]
    assert told == ["partner present", "same place", "elsewhere"]


def test_pairs_are_told_by_a_thousand_scenes_and_empty_cells_named() -> None:
    entry = {"made": {"edited_truth": 50, "best_worst_truth": 0}, "cells": {}, "equal": 50}
    results = {"arguments": {"images": "200"}, "seeds": {"0": {**entry, "left_out": ["best_worst_truth"]}}}
    shown = photos_demo.table(results)
    assert "| 0 | 250 | 0 | 50 |" in shown and "not trained: best_worst_truth." in shown


@pytest.mark.slow
def test_small_runs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, more in ((evidence_demo, []), (photos_demo, ["--cells", "edited_truth"])):
        out = tmp_path / module.__name__
        monkeypatch.setattr("sys.argv", ["x", "--quick", "--out", str(out), "--seeds", "0", *more])
        module.main()
        first = (out / "table.md").read_text(), (out / "results.json").read_text()
        module.main()
        assert first == ((out / "table.md").read_text(), (out / "results.json").read_text())
