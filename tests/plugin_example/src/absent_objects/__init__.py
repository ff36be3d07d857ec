"""A plug-in: importing it registers what its modules define."""

from absent_objects import benchmark, builder, family, format, objective

__all__ = ["benchmark", "builder", "family", "format", "objective"]
