"""The setting for the form in which a model gets videos, one for all sections that show them. Imports nothing."""

from __future__ import annotations

from typing import Literal

VideoInput = Literal["auto", "native", "frames"]

VIDEO_INPUT = (
    "How the model gets a video. native: as one video with the times of its frames; frames: as a list of images; auto: "
    "native in the families that take videos, else frames. Best set at the top of a recipe, for all its sections."
)
"""The setting's description."""
