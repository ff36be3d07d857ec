"""The tiny model and the photos of the candidates' tests."""

from tests.data_builders.candidates.conftest import photos, talker

__all__ = ["photos", "talker"]
