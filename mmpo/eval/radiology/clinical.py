"""Clinical metrics that need trained models elsewhere: RadGraph F1 and the RadCliQ composite, from their outputs.

RadGraph's entities and relations can be given (its JSON), or come from the package `radgraph` where that is installed
with weights. CheXbert similarity and BERTScore are given as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmpo.errors import UserError
from mmpo.packages import RADGRAPH, require
from mmpo.radiology.findings import UNCERTAIN_AS, UncertainAs

Level = Literal["simple", "partial", "complete", "combined"]


class RadcliqFeatures(NamedTuple):
    """The four features of RadCliQ, each of one report or a mean over reports (RadCliQ is linear)."""

    radgraph: float
    bertscore: float
    semb: float
    bleu2: float


class _Fit(NamedTuple):
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coef: tuple[float, ...]
    intercept: float


# The fitted regressions of Yu et al. 2023 (doi 10.1016/j.patter.2023.100802), in the order of the features.
_FITS = {
    "v1": _Fit(
        (0.5379231241355762, 0.6175725628125001, 0.7647942121140658, 0.44738335396242174),
        (0.3028258411486429, 0.22430938459304575, 0.2539439110169773, 0.2989271671041838),
        (-0.37708368261038905, -0.37030009974480316, -0.25261621789593225, 4.315e-12),
        2.47e-10,
    ),
    "v0": _Fit(
        (0.5398376019082272, 0.6312549595000001, 0.7716797866672277, 0.4607372064809605),
        (0.3018344440559102, 0.22466950746141123, 0.24750333805236252, 0.30336670936092264),
        (-0.4796252644863446, -0.6762170542369337, -0.46366575161751994, 0.2165861905287535),
        1.641666666666666,
    ),
}


def radcliq(features: RadcliqFeatures, version: Literal["v0", "v1"] = "v1") -> float:
    """The composite; lower is better. v1 ignores BLEU in effect, v0 rewards a lower one."""
    fit = _FITS[version]
    parts = zip(features, fit.mean, fit.scale, fit.coef, strict=True)
    return fit.intercept + sum(coef * (value - mean) / scale for value, mean, scale, coef in parts)


def radgraph_f1(answer: Mapping[str, Any], reference: Mapping[str, Any], level: Level = "partial") -> float:
    """Agreement of two RadGraph annotations (`{id: {tokens, label, relations: [[type, id], …]}}`), 0 where either is
    empty.

    simple: entities; partial: and whether each has a relation; complete: and which (Delbrouck et al. 2022, arXiv
    2210.12186). combined: RadCliQ's mean of entity and relation F1.
    """
    if level == "combined":
        return (
            _f1(_items(answer, "simple"), _items(reference, "simple")) + _f1(_triples(answer), _triples(reference))
        ) / 2
    return _f1(_items(answer, level), _items(reference, level))


def _items(graph: Mapping[str, Any], level: str) -> set[tuple[Any, ...]]:
    items: set[tuple[Any, ...]] = set()
    for entity in graph.values():
        relations = entity.get("relations") or []
        plain = (entity["tokens"], entity["label"])
        if level == "simple" or not relations:
            items.add(plain)
        elif level == "partial":
            items.add((*plain, True))
        else:
            items |= {
                (entity["tokens"].lower(), entity["label"], kind, graph[target]["tokens"].lower())
                for kind, target in relations
            }
    return items


def _triples(graph: Mapping[str, Any]) -> set[tuple[Any, ...]]:
    def name(entity: Mapping[str, Any]) -> tuple[str, str]:
        return entity["tokens"], entity["label"]

    return {
        (name(entity), name(graph[target]), kind)
        for entity in graph.values()
        for kind, target in entity.get("relations") or []
    }


def _f1(ours: set[tuple[Any, ...]], theirs: set[tuple[Any, ...]]) -> float:
    common = len(ours & theirs)
    if not ours or not theirs or not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


CHEXBERT = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
"""CheXbert's labels in its order (Smit et al. 2020, arXiv 2004.09167)."""
TOP5 = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")


def chexbert_f1(
    answers: Sequence[Sequence[int]], references: Sequence[Sequence[int]], uncertain_as: UncertainAs = "positive"
) -> dict[str, float]:
    """Micro and macro F1 over the 14 labels and the usual five, of labels that CheXbert gave elsewhere: a row of 14
    classes for each report, 0 blank, 1 positive, 2 negative, 3 uncertain. F1 of a label that neither side has is 0.
    """
    if uncertain_as not in UNCERTAIN_AS:
        raise UserError(f"uncertain_as {uncertain_as!r}", hint=f"one of {', '.join(UNCERTAIN_AS)}")
    counts = {name: [0, 0, 0] for name in CHEXBERT}
    for ours, theirs in zip(answers, references, strict=True):
        if len(ours) != len(CHEXBERT) or len(theirs) != len(CHEXBERT):
            raise UserError(f"a row of CheXbert labels has {len(ours)} and {len(theirs)} values, not {len(CHEXBERT)}")
        for name, said, true in zip(CHEXBERT, ours, theirs, strict=True):
            if uncertain_as == "ignore" and 3 in (said, true):
                continue
            positive = (1, 3) if uncertain_as == "positive" else (1,)
            counts[name][0] += said in positive and true in positive
            counts[name][1] += said in positive and true not in positive
            counts[name][2] += said not in positive and true in positive
    found = {}
    for suffix, labels in (("5", TOP5), ("14", CHEXBERT)):
        each = [_label_f1(*counts[name]) for name in labels]
        found[f"micro_{suffix}"] = _label_f1(*(sum(counts[name][i] for name in labels) for i in range(3)))
        found[f"macro_{suffix}"] = sum(each) / len(each)
    return found


def _label_f1(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def annotate(reports: Sequence[str], model: str = "radgraph-xl") -> list[dict[str, Any]]:
    """RadGraph annotations of reports by the package `radgraph`. Raises UserError where package or weights are
    missing.
    """
    require("RadGraph F1", RADGRAPH)
    from radgraph import RadGraph

    try:
        found = RadGraph(model_type=model)(list(reports))
    except OSError as error:
        raise UserError(f"the weights of {model} are not on this machine", hint=str(error)[:200]) from None
    return [found[str(number)]["entities"] for number in range(len(reports))]
