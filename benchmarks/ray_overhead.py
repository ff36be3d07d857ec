"""What Ray costs: the demo's build by workers that mmpo starts, and by as many Ray actors.

    python benchmarks/ray_overhead.py [--limit 600] [--workers 2] [--rounds 3] [--json OUT]

Both are the whole command in a process of its own, with the drawing of the world and, on Ray's side, the start and end
of a Ray of its own, whose seconds are also measured alone. They take turns; medians are compared. The pairs must be the
same bytes.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import command_line, seconds_in_turns
from mmpo.errors import in_one_line
from mmpo.files.atomic import write_json

ALONE = (
    "import os; os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER='0', RAY_USAGE_STATS_ENABLED='0')\n"
    "import ray; ray.init(address='local', include_dashboard=False, log_to_driver=False); ray.shutdown()"
)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--limit", type=int, default=600, help="pictures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    # One thread a worker on both sides: the last digits depend on their number.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    digests: set[str] = set()

    def build(*words: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            limit = f"build.limit={args.limit}"
            command = ["build", "demo", "--out", str(out), "--set", limit, "--workers", str(args.workers), *words]
            subprocess.run([sys.executable, "-m", "mmpo", *command], env=environment, check=True, capture_output=True)
            shards = sorted((out / "build/pairs").rglob("*.parquet"))
            digests.add(hashlib.sha256(b"".join(shard.read_bytes() for shard in shards)).hexdigest())

    steps = {
        "processes": lambda: build(),
        "ray": lambda: build("--executor", "ray"),
        "ray_alone": lambda: subprocess.run([sys.executable, "-c", ALONE], check=True, capture_output=True),
    }
    seconds = seconds_in_turns(steps, args.rounds)
    if len(digests) != 1:
        raise RuntimeError("the two made different pairs")
    median = {name: statistics.median(times) for name, times in seconds.items()}
    overhead = median["ray"] / median["processes"] - 1
    print(
        f"{args.limit} pictures, {args.workers} workers: processes {median['processes']:.1f} s, "
        f"Ray {median['ray']:.1f} s ({overhead:+.1%}), of which starting and ending Ray "
        f"{median['ray_alone']:.1f} s; the same bytes"
    )
    if args.json:
        write_json(args.json, {"seconds": seconds, "median": median, "overhead": overhead, "workers": args.workers})


if __name__ == "__main__":
    in_one_line(main)
