"""The source `detector`: boxes of any object detector that transformers can load.

closed-set (AutoModelForObjectDetection)           it knows a list of classes, and abstains about all others
zero-shot (AutoModelForZeroShotObjectDetection)    it is asked for names, a few in a text, two of them decoys

A picture's numbers don't depend on its neighbours: only inputs of equal shape are computed together, so none is padded.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mmpo.errors import Quarantined, UserError
from mmpo.evidence.cuts import VerdictCuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.settings import DetectorSource
from mmpo.evidence.source import EvidenceContext, EvidenceSource
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.files.images import load_image
from mmpo.models.folder import check_model
from mmpo.outside import json_of

log = logging.getLogger(__name__)

NAMES_A_TEXT = 8
DECOYS = 2
SHOWN_BOXES = 10
"""Boxes of a class that a finding keeps, the best."""
LEAST_SHOWN = 0.05
REMEMBERED = 256
"""Pictures whose boxes are remembered, for classes that another detector found in them."""


@dataclass(frozen=True)
class DetectedBox:
    """A box of the class or query `name`; corners in pixels of the picture."""

    name: str
    score: float
    corners: tuple[float, float, float, float]


def detector_kind(folder: Path, source: str) -> Literal["closed-set", "zero-shot"]:
    """The kind of detector in a folder, by its files alone. Raises `UserError` for what is none, or is incomplete."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
        MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
    )

    kind = check_model(folder, source, processor=False).get("model_type")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(
            f"{source}: the detector has no preprocessor_config.json",
            hint="save its processor beside it: AutoImageProcessor.save_pretrained writes it",
        )
    if kind in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES:
        return "zero-shot"
    if kind in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        return "closed-set"
    raise UserError(
        f"{source}: a model of type {kind!r}, which detects no objects",
        hint="a DETR, YOLOS, RT-DETR, … or a Grounding DINO, OWLv2, OmDet-Turbo",
    )


class ObjectDetector(EvidenceSource[DetectorSource]):
    """z is the largest score of a box of the class, 0 without one. It abstains about classes that a closed set does not
    have (`unknown_class`), queries that the text limit cuts off (`query_cut_off`), and pictures on which the model
    fails (`detector_failed`). `detail.boxes` has the best boxes, `detail.decoy` the best score of a decoy."""

    def __init__(self, settings: DetectorSource, context: EvidenceContext) -> None:
        super().__init__(settings, context)
        self._folder = model_folder(settings.model)
        self.kind = detector_kind(self._folder, settings.model)
        self.finds_classes = self.kind == "closed-set"
        self._recent: OrderedDict[str, list[DetectedBox] | str] = OrderedDict()
        self._worked = False

    @property
    def identity(self) -> str:
        """The files, and for a zero-shot model what decides the boxes; `threshold` only decides the verdicts, and which
        classes that nobody asked for are reported."""
        words = f" text_threshold={self.settings.text_threshold}" if self.kind == "zero-shot" else ""
        return f"detector {folder_fingerprint(self._folder)} threshold={self.settings.threshold}{words}"

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        return VerdictCuts(self.settings.threshold, self.settings.threshold / 2)

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        if self.kind == "closed-set":
            return self._closed(pictures, names)
        return [self._queried(picture, sorted(asked)) for picture, asked in zip(pictures, names, strict=True)]

    # ---- closed set

    @cached_property
    def classes(self) -> frozenset[str]:
        """The classes of the vocabulary that a closed set knows. UserError where it knows none."""
        labels = json_of((self._folder / "config.json").read_bytes()).get("id2label") or {}
        known = frozenset(filter(None, (self.context.vocabulary.name_of(str(label)) for label in labels.values())))
        if not known:
            shown = ", ".join(list(map(str, labels.values()))[:3])
            raise UserError(
                f"{self.settings.model}: none of the detector's classes ({shown}, …) is in the vocabulary",
                hint="`id2label` in its config.json names them",
            )
        return known

    def _closed(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        known = self.classes
        new = list({picture.key: picture for picture in pictures if picture.key not in self._recent}.values())
        for picture, boxes in zip(new, self._detected([(picture, ()) for picture in new]), strict=True):
            self._recent[picture.key] = boxes
        answers: list[Mapping[str, SourceFinding]] = []
        for picture, asked in zip(pictures, names, strict=True):
            found = self._recent[picture.key]
            if isinstance(found, str):
                answers.append({name: SourceFinding(None, "detector_failed", {"error": found}) for name in asked})
                continue
            seen = {box.name for box in found if box.score >= self.settings.threshold and box.name in known}
            answers.append(
                {
                    name: _finding(name, found) if name in known else SourceFinding(None, "unknown_class")
                    for name in sorted(seen.union(asked))
                }
            )
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return answers

    # ---- zero-shot

    def _queried(self, picture: EvidencePicture, asked: Sequence[str]) -> Mapping[str, SourceFinding]:
        fitting = [name for name in asked if self._fits([name])]
        found = {name: SourceFinding(None, "query_cut_off") for name in asked if name not in set(fitting)}
        free = [name for name in self.context.vocabulary.names if name not in set(asked) and self._fits([name])]
        decoys = random.Random(f"decoys/{picture.key}").sample(free, min(DECOYS, len(free)))
        texts = self._texts(fitting, decoys)
        for (own, beside), boxes in zip(
            texts, self._detected([(picture, (*own, *beside)) for own, beside in texts]), strict=True
        ):
            if isinstance(boxes, str):
                found |= {name: SourceFinding(None, "detector_failed", {"error": boxes}) for name in own}
                continue
            decoy = max((box.score for box in boxes if box.name in beside), default=0.0) if beside else None
            found |= {name: _finding(name, boxes, decoy) for name in own}
        return found

    def _texts(self, names: Sequence[str], decoys: Sequence[str]) -> list[tuple[list[str], list[str]]]:
        """Names in texts of at most eight with the decoys; alone where eight are too long for the model."""
        size = NAMES_A_TEXT - len(decoys)
        texts: list[tuple[list[str], list[str]]] = []
        for start in range(0, len(names), size):
            part = list(names[start : start + size])
            if self._fits([*part, *decoys]):
                texts.append((part, list(decoys)))
            else:
                texts += [([name], list(decoys) if self._fits([name, *decoys]) else []) for name in part]
        return texts

    def _fits(self, names: Sequence[str]) -> bool:
        """Is no query cut off? CLIP's text towers read each by itself, Grounding DINO's all of them in one text."""
        tokenizer, config = self._processor.tokenizer, self._model.config
        limit = getattr(config, "max_text_len", None)
        if limit is not None:
            return len(tokenizer(". ".join(names) + ".")["input_ids"]) <= limit
        limit = getattr(getattr(config, "text_config", None), "max_position_embeddings", tokenizer.model_max_length)
        return all(len(tokenizer(name)["input_ids"]) <= limit for name in names)

    # ---- both

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoImageProcessor, AutoProcessor

        from mmpo.models.families.opening import LOADING, unopened

        kind = AutoImageProcessor if self.kind == "closed-set" else AutoProcessor
        try:
            return kind.from_pretrained(self._folder, local_files_only=True)
        except LOADING as error:
            raise unopened(self.settings.model, error, False) from error

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection

        from mmpo.models.families.loading import default_device
        from mmpo.models.families.opening import LOADING, unopened

        kind: Any = AutoModelForObjectDetection if self.kind == "closed-set" else AutoModelForZeroShotObjectDetection
        try:
            model = kind.from_pretrained(self._folder, use_safetensors=True, local_files_only=True)
        except LOADING as error:
            raise unopened(self.settings.model, error, False) from error
        return model.to(default_device()).eval()

    def _detected(self, asked: Sequence[tuple[EvidencePicture, Sequence[str]]]) -> list[list[DetectedBox] | str]:
        """The boxes of each picture (with the queries of a text), or the error on it. UserError where the first
        pictures all fail: then the model is at fault."""
        results: list[list[DetectedBox] | str] = [""] * len(asked)
        groups: dict[tuple[Any, ...], list[tuple[int, Mapping[str, Any], tuple[int, int]]]] = defaultdict(list)
        for number, (picture, queries) in enumerate(asked):
            try:
                image = load_image(picture.data)
                inputs = self._prepared(image, queries)
            except (Quarantined, ValueError, TypeError, RuntimeError) as error:
                results[number] = _told(error)
                continue
            shapes = tuple((name, tuple(value.shape)) for name, value in sorted(inputs.items()))
            groups[len(queries), shapes].append((number, inputs, (image.height, image.width)))
        for group in groups.values():
            for start in range(0, len(group), self.settings.batch_size):
                part = group[start : start + self.settings.batch_size]
                for number, boxes in self._batch(part, asked):
                    results[number] = boxes
        failures = [one for one in results if isinstance(one, str)]
        self._worked = self._worked or len(failures) < len(results)
        if failures and not self._worked:
            raise UserError(f"{self.settings.model}: the detector works on none of the first pictures: {failures[0]}")
        for (picture, _), result in zip(asked, results, strict=True):
            if isinstance(result, str):
                log.warning("%s: the detector %s fails: %s", picture.path, self.settings.model, result)
        return results

    def _prepared(self, image: Image.Image, queries: Sequence[str]) -> Mapping[str, Any]:
        if self.kind == "closed-set":
            made = self._processor(images=image, return_tensors="pt")
        else:
            made = self._processor(images=image, text=[list(queries)], return_tensors="pt")
        return {name: value for name, value in made.items() if hasattr(value, "shape")}

    def _batch(
        self,
        part: Sequence[tuple[int, Mapping[str, Any], tuple[int, int]]],
        asked: Sequence[tuple[EvidencePicture, Sequence[str]]],
    ) -> Iterator[tuple[int, list[DetectedBox] | str]]:
        """The boxes of inputs of equal shape. Where a batch fails each of its pictures is tried alone."""
        import torch

        try:
            with torch.inference_mode():
                inputs = {
                    name: torch.cat([one[name] for _, one, _ in part]).to(self._model.device) for name in part[0][1]
                }
                outputs = self._model(**inputs)
                rows = self._boxes(outputs, inputs, [size for _, _, size in part], [asked[n][1] for n, _, _ in part])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if len(part) == 1:
                yield part[0][0], _told(error)
                return
            for one in part:
                yield from self._batch([one], asked)
            return
        yield from zip([number for number, _, _ in part], rows, strict=True)

    def _boxes(
        self,
        outputs: Any,
        inputs: Mapping[str, Any],
        sizes: Sequence[tuple[int, int]],
        queries: Sequence[Sequence[str]],
    ) -> list[list[DetectedBox]]:
        if self.kind == "closed-set":
            found = self._processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=list(sizes))
            labels = self._model.config.id2label
            name_of = {key: self.context.vocabulary.name_of(str(label)) for key, label in labels.items()}
            return [list(_read(row, [name_of.get(int(label)) for label in row["labels"]])) for row in found]
        read = self._processor.post_process_grounded_object_detection
        takes = inspect.signature(read).parameters
        given: dict[str, Any] = {"threshold": 0.0, "target_sizes": list(sizes)}
        if "text_threshold" in takes:
            given["text_threshold"] = self.settings.text_threshold
        if "text_labels" in takes:
            given["text_labels"] = [list(texts) for texts in queries]
        if "input_ids" in takes:
            given["input_ids"] = inputs["input_ids"]
        return [
            list(_read(row, [self._query(str(label), texts) for label in row["text_labels"]]))
            for row, texts in zip(read(outputs, **given), queries, strict=True)
        ]

    def _query(self, label: str, texts: Sequence[str]) -> str | None:
        """The query that a label stands for: the same words, or words for the same class; not a part of it."""
        if label in texts:
            return label
        name = self.context.vocabulary.name_of(label)
        return name if name in texts else None


def _read(row: Mapping[str, Any], names: Sequence[str | None]) -> Iterator[DetectedBox]:
    for score, corners, name in zip(row["scores"].tolist(), row["boxes"].tolist(), names, strict=True):
        if name is not None:
            x1, y1, x2, y2 = (round(float(one), 1) for one in corners)
            yield DetectedBox(name, float(score), (x1, y1, x2, y2))


def _finding(name: str, boxes: Sequence[DetectedBox], decoy: float | None = None) -> SourceFinding:
    own = sorted((box for box in boxes if box.name == name), key=lambda box: (-box.score, box.corners))
    shown = [[*box.corners, round(box.score, 4)] for box in own[:SHOWN_BOXES] if box.score >= LEAST_SHOWN]
    detail: dict[str, Any] = {"boxes": shown} if shown else {}
    if decoy is not None:
        detail["decoy"] = decoy
    return SourceFinding(own[0].score if own else 0.0, "", detail)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
