"""`mmpo objectives check`: a file of golden values, line by line."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmpo.cli.visible import echo
from mmpo.errors import UserError
from mmpo.objectives.checking import Checked, Kernels, check
from mmpo.objectives.golden_files import GoldenFile, golden_file
from mmpo.objectives.names import nearest_names
from mmpo.outside import read_json

LONGEST = 160
"""Characters of what a line says of a failure."""


def run_checks(
    file: Path,
    *,
    only: str | None = None,
    tolerance: float | None = None,
    strict: bool = False,
    as_json: bool = False,
    warn: Callable[[str], None],
) -> bool:
    """Print what comes of every case, and whether all are right. Raises `UserError` for a file that is none."""
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UserError(f"--tolerance must be a number from 0 (it is {tolerance})")
    golden = golden_file_of(file)
    if only is not None:
        golden = _only(golden, only)
    allowed = golden.tolerance if tolerance is None else tolerance
    done: list[Checked] = []
    for checked in check(golden, allowed, token_kernels()):
        done.append(checked)
        if not as_json:
            echo(line(checked, allowed, strict))
            for warning in checked.warnings:
                warn(f"{one_line(checked.id)}: {one_line(warning)}")
    if as_json:
        echo(json.dumps(document(done, allowed, strict), ensure_ascii=False))
    else:
        for text in totals(done, allowed, strict):
            echo(text)
    return all(one.ok(allowed, strict=strict) for one in done)


def golden_file_of(file: Path) -> GoldenFile:
    """The cases of a file. Raises `UserError` that names it."""
    try:
        return golden_file(read_json(file))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or 'cannot be read'}") from None
    except UserError as error:
        text = error.message if error.message.startswith(str(file)) else f"{file}: {error.message}"
        raise UserError(text, hint=error.hint) from None


def _only(golden: GoldenFile, name: str) -> GoldenFile:
    cases = [case for case in golden.cases if name in (case.id, case.name)]
    statistics = [one for one in golden.statistics if name in (one.id, one.name)]
    if not cases and not statistics:
        known = {word for case in golden.cases for word in (case.id, case.name)}
        known |= {word for one in golden.statistics for word in (one.id, one.name)}
        raise UserError(f"the file has no case of {name!r}", hint=nearest_names(name, known))
    return replace(golden, cases=cases, statistics=statistics)


# ---- lines


def one_line(text: str) -> str:
    """Text of a file, cut and without line ends."""
    flat = re.sub(r"\s+", " ", text)
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 1]}…"


def line(checked: Checked, tolerance: float, strict: bool) -> str:
    """`ok    dpo                       loss 2.2e-16   gradient 6.9e-18`"""
    mark = "ok" if checked.ok(tolerance, strict=strict) else "FAIL"
    name = "value" if checked.kind == "statistic" else "loss"
    errors = {name: checked.loss, "gradient": checked.gradient, "state": checked.state}
    said = [f"{what} {error:.1e}" for what, error in errors.items() if error is not None]
    if checked.problem:
        said = [checked.problem]
    elif checked.refused:
        said = [f"refused: {checked.refused}"]
    return (
        f"{mark:<6}{one_line(checked.id)[:60]:<26}{one_line('   '.join(said)) if checked.problem else '   '.join(said)}"
    )


def totals(done: Sequence[Checked], tolerance: float, strict: bool) -> list[str]:
    """The last lines: how many are right, and the largest errors."""
    cases = [one for one in done if one.kind == "case"]
    statistics = [one for one in done if one.kind == "statistic"]
    lines = []
    if cases:
        largest = f"largest error of loss {_largest(cases, 'loss')}, of gradient {_largest(cases, 'gradient')}"
        lines.append(f"{_counts(cases, 'cases', tolerance, strict)}; {largest}")
    if statistics:
        largest = f"largest error {_largest(statistics, 'loss')}"
        lines.append(f"{_counts(statistics, 'statistics', tolerance, strict)}; {largest}")
    return lines


def _counts(done: Sequence[Checked], what: str, tolerance: float, strict: bool) -> str:
    right = sum(one.ok(tolerance, strict=strict) for one in done)
    return f"{len(done)} {what}, {right} ok, {len(done) - right} failed"


def _worst(done: Iterable[Checked], key: str) -> tuple[float, str] | None:
    found = [(getattr(one, key), one.id) for one in done if getattr(one, key) is not None]
    return max(found, key=lambda one: one[0], default=None)


def _largest(done: Iterable[Checked], key: str) -> str:
    worst = _worst(done, key)
    return f"{worst[0]:.1e} ({one_line(worst[1])})" if worst else "- (none)"


def document(done: Sequence[Checked], tolerance: float, strict: bool) -> dict[str, Any]:
    """`--json`: all that the lines say."""

    def said(one: Checked) -> dict[str, Any]:
        errors = {key: _json_number(getattr(one, key)) for key in ("loss", "gradient", "state")}
        return {
            "id": one.id,
            "ok": one.ok(tolerance, strict=strict),
            **errors,
            "problem": one.problem or None,
            "refused": one.refused or None,
            "warnings": list(one.warnings),
        }

    found: dict[str, Any] = {"tolerance": tolerance, "strict": strict}
    for key, kind in (("cases", "case"), ("statistics", "statistic")):
        found[key] = [said(one) for one in done if one.kind == kind]
    right = sum(one.ok(tolerance, strict=strict) for one in done)
    found.update(ok=right, failed=len(done) - right)
    for key in ("loss", "gradient"):
        worst = _worst((one for one in done if one.kind == "case"), key)
        found[f"largest_{key}"] = {"error": _json_number(worst[0]), "id": worst[1]} if worst else None
    return found


def _json_number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else "inf"


# ---- the kernels that scoring uses


def token_kernels() -> Kernels:
    """The statistics of tokens of the scoring core by name, each of logits: the hidden states of a head that is the
    identity."""
    return _Kernels()


class _Kernels(dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]]):
    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _kernel(name) is not None

    def __getitem__(self, name: str) -> Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]:
        kernel = _kernel(name)
        if kernel is None:
            raise KeyError(name)

        def run(logits: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> Tensor:
            return _call(name, kernel, logits, parameters)

        return run


def _modules() -> list[ModuleType]:
    from mmpo.models.scoring import divergence

    modules: list[ModuleType] = [divergence]
    try:
        from mmpo.models.scoring import token_statistics

        modules.append(token_statistics)
    except ImportError:
        pass
    return modules


def _kernel(name: str) -> Callable[..., Tensor] | None:
    if not name.startswith("token_"):
        return None
    found = [getattr(module, name) for module in _modules() if hasattr(module, name)]
    return found[0] if found and callable(found[0]) else None


def _call(
    name: str, kernel: Callable[..., Tensor], logits: Mapping[str, Tensor], parameters: Mapping[str, Any]
) -> Tensor:
    known = inspect.signature(kernel).parameters
    given: dict[str, Any] = {}
    for key, value in logits.items():
        given[key.removesuffix("_logits")] = value
    if "policy" not in given:
        raise UserError("inputs.policy_logits is missing")
    width = given["policy"].shape[-1]
    head = nn.Linear(width, width, bias=False, dtype=torch.float64)
    head.weight = nn.Parameter(torch.eye(width, dtype=torch.float64), requires_grad=False)
    if unknown := [key for key in {**given, **parameters} if key not in known]:
        raise UserError(f"{name} has no input or parameter {unknown[0]!r}")
    needed = [key for key, one in known.items() if one.default is inspect.Parameter.empty and key != "head"]
    if absent := [key for key in needed if key not in given and key not in parameters]:
        raise UserError(f"{name} needs {absent[0]!r}")
    return kernel(**given, **parameters, head=head)
