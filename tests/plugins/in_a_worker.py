"""What a process that another one started knows of plug-ins. Light: a worker imports it."""

from __future__ import annotations


def builders_and_plugins() -> tuple[list[str], list[str]]:
    """The names of builders, and the modules of plug-ins."""
    from mmpo import plugins
    from mmpo.data_builders.builders import BUILDERS

    return list(BUILDERS), list(plugins.loaded())
