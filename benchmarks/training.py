"""Training speed and memory beside TRL's DPOTrainer: the same models, the same pairs, the same machine, one run.

    python benchmarks/training.py [--rows NAME…] [--quick | --size 1b|7b] [--json OUT] [--markdown OUT]
                                  [--rounds 3] [--threads N] [--vocabulary N] [--no-memory]
    python benchmarks/training.py --merge ROW.json… [--json OUT] [--markdown OUT]

Rows that were measured one by one, each with its own `--json`, become one table with `--merge`.

Random weights; LoRA on the language model; both sides run their real training step, from encoded image files to
gradients, and must report the same loss. On a CPU the steps of all sides are taken in turns and medians compared, so
that other load on the machine meets all alike, and models are scaled to two cores. With a GPU `--size 1b` or `7b`
takes real sizes in bfloat16.

Beside each row stands the bound: a plain causal forward for the reference, a plain forward and backward for the
policy and one tower pass, over the same distinct tokens. The rows, and what their names mean, are in
`benchmarks/speed/layouts.py`; sides and bound in `benchmarks/speed/sides.py`."""

# ruff: noqa: E402  (the environment must be set before torch and transformers are imported)
from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmpo.errors import in_one_line

warnings.filterwarnings("ignore")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
_ROOT = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, _ROOT)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))  # for the forks

import torch

from benchmarks.measuring import command_line
from benchmarks.speed.layouts import LAYOUTS, Layout, quick
from benchmarks.speed.measure import measure
from benchmarks.speed.models import SIZES, sized
from benchmarks.speed.sides import Setting, encoded, estimated_mib, trl_refuses_cache
from mmpo.files.atomic import read_json, write_json, write_text

SAME_LOSS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Two sides compute the same thing if their losses are no further apart."""


def settings_of(layout: Layout, arguments: argparse.Namespace) -> Setting:
    device = "cuda" if torch.cuda.is_available() and arguments.size is not None else "cpu"
    if arguments.quick:
        return Setting(quick(layout), sized("quick", arguments.vocabulary))
    name = arguments.size or ("cpu-wide" if layout.wide else "cpu")
    dtype = torch.bfloat16 if arguments.size is not None else torch.float32
    return Setting(layout, sized(name, arguments.vocabulary), device, dtype)


def run_row(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """One layout, measured and summed up."""
    layout = setting.layout
    vlm = setting.model()
    pairs, _ = encoded(setting, vlm)
    described = {
        "name": layout.name,
        "checkpointing": layout.checkpointing,
        "pairs": layout.pairs,
        "tokens": {
            "prompt": len(pairs.rows[0].prompt),
            "image": sum(int(token in vlm.visual_token_ids) for token in pairs.rows[0].prompt.tolist()),
            "response": len(pairs.rows[0].chosen),
        },
        "parameters": {
            "all": sum(p.numel() for p in vlm.base.parameters() if not p.requires_grad),
            "tower": sum(p.numel() for p in vlm.backbone.children().__next__().parameters()),
            "head": vlm.head.weight.numel(),
        },
        "size": asdict(setting.size),
    }
    del vlm, pairs
    found = measure(setting, arguments.rounds, arguments.threads, memory=not arguments.no_memory)
    losses = {name: found["losses"][name] for name in ("trl", "mmpo", "mmpo-cached") if name in found["losses"]}
    if max(losses.values()) - min(losses.values()) > SAME_LOSS[setting.dtype]:
        raise RuntimeError(f"{layout.name}: the sides don't compute the same thing: {losses}")
    return described | found | summed_up(found, layout.pairs) | {"estimated_mib": estimated_mib(setting)}


def summed_up(found: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Speeds and ratios. Ratios are taken round by round: the machine's load may change between rounds, hardly within
    one."""
    seconds, counted = found["seconds"], found["counted"]

    def ratio(slow: str, fast: str) -> float | None:
        if slow not in seconds:
            return None
        return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))

    peak = found["peak_mib"]
    return {
        "pairs_per_second": {name: pairs / statistics.median(values) for name, values in seconds.items()},
        "speedup": ratio("trl", "mmpo"),
        "speedup_cached": ratio("trl", "mmpo-cached"),
        "share_of_bound": ratio("bound", "mmpo"),
        "share_of_bound_cached": ratio("bound-cached", "mmpo-cached"),
        "gflop_per_pair": {name: value["flops"] / pairs / 1e9 for name, value in counted.items()},
        "head_gflop_per_pair": {name: value["head_flops"] / pairs / 1e9 for name, value in counted.items()},
        "tower_passes": {name: c["tower_rows"] / counted["bound"]["tower_rows"] for name, c in counted.items()},
        "memory_ratio": peak["mmpo"] / peak["trl"] if "trl" in peak and "mmpo" in peak else None,
    }


COLUMNS = (
    "layout", "pairs/s: TRL", "mmpo", "cached", "speed-up", "cached", "GFLOP/pair: TRL", "mmpo", "cached", "bound",
    "share of the bound", "cached", "tower passes: TRL", "mmpo", "peak MiB: TRL", "mmpo", "estimated", "memory",
)  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    lines = [result["setting"], "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    notes = (
        [f"TRL's own cache of reference log-probs: {result['trl_cache'] or 'works'}"] if "trl_cache" in result else []
    )
    for row in result["rows"]:
        if "error" in row:
            notes.append(f"{row['name']}: {row['error']}")
            continue
        speed, work, tower, peak = (
            row[key] for key in ("pairs_per_second", "gflop_per_pair", "tower_passes", "peak_mib")
        )
        tokens = row["tokens"]
        lines.append(
            _line(
                [
                    f"{row['name']} ({tokens['image']} image + {tokens['prompt'] - tokens['image']} prompt tokens, "
                    f"{tokens['response']} a response, {row['pairs']} pairs a step)",
                    *(_number(speed.get(name), 2) for name in ("trl", "mmpo", "mmpo-cached")),
                    *(_number(row[name], 2, "x") for name in ("speedup", "speedup_cached")),
                    *(_number(work.get(name), 1) for name in ("trl", "mmpo", "mmpo-cached", "bound")),
                    *(_number(row[name], 2) for name in ("share_of_bound", "share_of_bound_cached")),
                    *(_number(tower.get(name), 1) for name in ("trl", "mmpo")),
                    *(_number(peak.get(name), 0) for name in ("trl", "mmpo")),
                    _number(row["estimated_mib"], 0),
                    _number(row["memory_ratio"], 2, "x"),
                ]
            )
        )
        notes += [f"{row['name']}: {name} can't run it: {why}" for name, why in row["refused"].items()]
        head = row["head_gflop_per_pair"]
        if "trl" in head:
            notes.append(
                f"{row['name']}: of the arithmetic the head takes {head['trl']:.1f} (TRL) and {head['mmpo']:.1f} (mmpo)"
            )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def merged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of several, rows in the order of the table; of a row that was measured twice the later one counts.
    Raises ValueError where they were not measured in the same setting."""
    if others := sorted({result["setting"] for result in results} - {results[0]["setting"]}):
        raise ValueError(f"measured in other settings: {results[0]['setting']!r} and {others[0]!r}")
    if any(result["sizes"] != results[0]["sizes"] for result in results):
        raise ValueError("measured with models of other sizes")
    rows = {row["name"]: row for result in results for row in result["rows"]}
    seconds = round(sum(row["took"] for row in rows.values()), 1)
    return {**results[0], "rows": [rows[name] for name in LAYOUTS if name in rows], "seconds": seconds}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def machine(device: str, threads: int) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, bfloat16"
    return f"{platform.processor() or platform.machine()}, {threads} thread(s), float32"


def main() -> None:
    parser = command_line(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--rows", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), help="which rows")
    parser.add_argument("--quick", action="store_true", help="a toy size, to see that it runs")
    parser.add_argument("--size", choices=["1b", "7b"], help="a real size, bfloat16, on a GPU where there is one")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, help="another size of the vocabulary")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON", help="measure nothing; join these results")
    arguments = parser.parse_args()
    if arguments.merge:
        try:
            result = merged([read_json(path) for path in arguments.merge])
        except ValueError as error:
            parser.error(str(error))
        show(result, arguments)
        return
    torch.set_num_threads(arguments.threads)
    began = time.perf_counter()
    settings = [settings_of(LAYOUTS[name], arguments) for name in arguments.rows]
    result = {
        "setting": f"torch {torch.__version__}, {machine(settings[0].device, arguments.threads)}",
        "sizes": {name: asdict(size) for name, size in SIZES.items()},
        "rows": [],
        "trl_cache": trl_refuses_cache(settings_of(LAYOUTS["llava-1.5"], argparse.Namespace(
            quick=True, size=None, vocabulary=None))),
    }  # fmt: skip
    for setting in settings:
        start = time.perf_counter()
        try:
            row = run_row(setting, arguments)
        except Exception as error:  # the other rows are still worth having
            row = {"name": setting.layout.name, "error": f"{type(error).__name__}: {error}"}
        result["rows"].append({**row, "took": round(time.perf_counter() - start, 1)})
        print(f"{setting.layout.name}: {result['rows'][-1]['took']} s", file=sys.stderr, flush=True)
        result["seconds"] = round(time.perf_counter() - began, 1)
        if arguments.json:
            write_json(arguments.json, result)
    show(result, arguments)


def show(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the table and write the files that are asked for."""
    print(markdown(result))
    if arguments.json:
        write_json(arguments.json, result)
    if arguments.markdown:
        write_text(arguments.markdown, markdown(result) + "\n")


if __name__ == "__main__":
    in_one_line(main)
