"""State shared by the checks: findings so far, and for recipes the sections that will run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpo import plugins
from mmpo.errors import Quarantined, UserError
from mmpo.recipes import Recipe
from mmpo.recipes.problems import Problem
from mmpo.recipes.source import KeyPath as Keys
from mmpo.recipes.source import RecipeSource

MEGABYTE = 1_000_000


@dataclass
class Findings:
    """Mistakes and warnings found so far, each under the keys of a recipe or the name of an option."""

    problems: list[Problem] = field(default_factory=list)

    def error(self, path: Keys, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(path, message, hint))

    def warn(self, path: Keys, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(path, message, hint, error=False))

    @contextmanager
    def noting(self, path: Keys) -> Iterator[None]:
        """Inside the block, an error that a reader raises becomes a problem at this key."""
        try:
            yield
        except UserError as error:
            self.error(path, error.message, error.hint)
        except Quarantined as error:
            self.error(path, str(error))
        except Exception as error:  # a file so wrong that its reader has no words for it
            if told := plugins.crash(error):
                self.error(path, told.message, told.hint)
                return
            first = (str(error).splitlines() or [""])[0][:200]
            self.error(path, f"cannot be read ({type(error).__name__}: {first})", "is it the right file, and whole?")


@dataclass(kw_only=True)
class PreflightContext(Findings):
    """The examination of a recipe. `sections` are those that will run; `bytes` what they will write, as (least,
    likely)."""

    source: RecipeSource
    recipe: Recipe
    run: Path
    sections: list[str]
    bytes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def settings(self, section: str) -> Any:
        return getattr(self.recipe, section)

    def given(self, path: Keys) -> Keys:
        """The key that a value was written under: a section's own, or the recipe's top where it took that over."""
        top = path[-1:]
        written = {*self.source.lines, *self.source.overrides}
        return top if len(path) == 2 and path not in written and top in written else path

    def has_error(self, path: Keys) -> bool:
        """True if there is a mistake at or below this key already."""
        return any(one.error and one.path[: len(path)] == path for one in self.problems)

    def comes(self, value: str | Path) -> bool:
        """True if a step of the run will make this: it lies in the run folder, and is not there yet, or belongs to a
        step that was interrupted and will continue, so that only half of it may be there."""
        place, run = Path(value).absolute(), self.run.absolute()
        if not place.is_relative_to(run):
            return False
        return not os.path.exists(place) or place.relative_to(run).parts[:1] in [(name,) for name in self.sections]

    def fetches(self, model: str) -> bool:
        """True if a section that runs will fetch this model from the hub."""
        return any(
            getattr(self.settings(name), "model", None) == model
            and getattr(self.settings(name), "allow_network", False)
            for name in self.sections
        )
