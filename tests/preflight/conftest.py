"""The command line's fixtures: a folder of its own, photos, pairs, and a recipe on a tiny model."""

from tests.cli.conftest import here, mmpo, pairs, photos, recipe

__all__ = ["here", "mmpo", "pairs", "photos", "recipe"]
