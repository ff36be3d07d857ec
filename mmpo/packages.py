"""Optional packages: who needs them, and how they come."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from mmpo.errors import UserError


@dataclass(frozen=True)
class Package:
    """An optional package by the name it is imported under, and the command that installs it."""

    module: str
    install: str

    @property
    def here(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


BITSANDBYTES = Package("bitsandbytes", "pip install 'mmpo[qlora]'")
PYDICOM = Package("pydicom", "pip install 'mmpo[radiology]'")
SACREBLEU = Package("sacrebleu", "pip install 'mmpo[radiology]'")
ROUGE_SCORE = Package("rouge_score", "pip install 'mmpo[radiology]'")
STARLETTE = Package("starlette", "pip install 'mmpo[review]'")
UVICORN = Package("uvicorn", "pip install 'mmpo[review]'")
BERT_SCORE = Package("bert_score", "pip install bert-score")
RAY = Package("ray", "pip install 'mmpo[ray]'")
RADGRAPH = Package("radgraph", "pip install radgraph, or give its annotations as JSON")

TRACKERS = {name: Package(name, f"pip install {name}") for name in ("tensorboard", "wandb", "trackio", "mlflow")}
"""Services for the metrics of a training, by their names in `train.report_to`."""


def require(what: str, *packages: Package) -> None:
    """Raises `UserError` for the first of the packages that is not installed; `what` is the thing that needs it."""
    for package in packages:
        if not package.here:
            raise UserError(f"{what} needs the package {package.module.replace('_', '-')}", hint=package.install)
