"""The order in which pairs are trained: drawn anew in every pass, or that of their folder."""

from __future__ import annotations

import logging
from pathlib import Path

from mmpo.files.atomic import read_json
from mmpo.trainers.settings import TrainSettings

logger = logging.getLogger(__name__)


def in_order(settings: TrainSettings) -> bool:
    """True where the pairs are trained as they stand in their folder: on demand, or because its card says that their
    order is meant and nothing in the settings speaks against it."""
    if settings.order is not None:
        return settings.order == "given"
    if settings.group_images or not is_ordered(settings.pairs):
        return False
    logger.info("%s: a curriculum; trained in this order (train.order: shuffled mixes them)", settings.pairs)
    return True


def is_ordered(folder: Path) -> bool:
    """True for pairs whose card says `order: given`, as `mmpo select` writes it for a curriculum."""
    path = folder / "card.json"
    card = read_json(path) if path.is_file() else {}
    split = card.get("splits", {}).get("train", {}) if isinstance(card, dict) else {}
    return isinstance(split, dict) and (split.get("recipe") or {}).get("order") == "given"
