"""Choice of the described images: HA-DPO's step 0 leaves out those with too few or too many objects or thin annotation,
and draws from the rest (Zhao et al. 2023, arXiv:2311.16839; the thresholds are not published).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.settings import ChoiceSettings


def choose_images(
    images: Sequence[AnnotatedImage], settings: ChoiceSettings, detector: Detector, seed: int
) -> tuple[list[AnnotatedImage], Counter[str]]:
    """The chosen images in the order of the file, and how many of `in` were left out why. Objects are counted as the
    detector knows them: distinct classes of the vocabulary.
    """
    counts = Counter({"in": len(images)})
    fitting: list[int] = []
    for number, image in enumerate(images):
        names = len(detector.truth(image).names)
        if names < settings.min_objects:
            counts["too_few_objects"] += 1
        elif settings.max_objects is not None and names > settings.max_objects:
            counts["too_many_objects"] += 1
        elif len(image.captions) + len(image.regions) < settings.min_phrases:
            counts["thin_annotation"] += 1
        else:
            fitting.append(number)
    if settings.images is not None and settings.images < len(fitting):
        counts["not_drawn"] = len(fitting) - settings.images
        fitting = sorted(random.Random(f"{seed}/choose").sample(fitting, settings.images))
    counts["chosen"] = len(fitting)
    return [images[number] for number in fitting], counts
