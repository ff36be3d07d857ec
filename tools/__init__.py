"""Programs for a checkout of mmpo, run from its root. They are not part of the package."""
