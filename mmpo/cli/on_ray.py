"""`--executor ray`: the workers of a build or an evaluation are Ray actors, on this machine or on a cluster.

One actor a worker, with a GPU each where the cluster has GPUs and its part of the processor cores. Each runs the same
command as a member of the team (`mmpo.team`), with its model opened once, so results are the same files in the run
folder, which all machines must see under the same name. Where actors run, that lost ones are started again, and that
machines are added for those that wait, is Ray's. The process that was started makes nothing: it waits for the actors,
and then finds everything made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmpo.cli import console
from mmpo.cli.app import Executor
from mmpo.errors import UserError
from mmpo.packages import RAY, require

RESTARTS = 3
"""How often Ray starts an actor again that it lost, and gives it its work again."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch: at 0 it listens on the loopback address alone."""


@dataclass(frozen=True)
class RayCluster:
    """Where to find it; None starts one on this machine, for the length of the work."""

    address: str | None = None

    @property
    def options(self) -> list[str]:
        """On the command line."""
        return ["--executor", "ray", *(["--ray-address", self.address] if self.address else [])]


def cluster_of(executor: Executor, address: str | None, shard: str | None) -> RayCluster | None:
    """What --executor and --ray-address say; None without Ray. Raises UserError where they don't go together, or Ray
    is not installed."""
    if executor is not Executor.ray:
        if address is not None:
            raise UserError("--ray-address is for --executor ray", hint="add --executor ray")
        return None
    if shard is not None:
        raise UserError("--shard and --executor ray don't go together", hint="--workers N says how many actors")
    require("--executor ray", RAY)
    return RayCluster(address)


class _Worker:
    """The actor."""

    def work(self, folder: str, run: Callable[..., None], options: Mapping[str, Any]) -> tuple[str, str | None] | None:
        """`run(**options)` in `folder`. The message and hint of the user's mistake that it met, if any."""
        if os.path.isdir(folder):  # what the command names may be relative to it
            os.chdir(folder)
        console.out.quiet = True
        try:
            run(**options)
        except UserError as error:
            return error.message, error.hint
        return None


def do_by_actors(cluster: RayCluster, workers: int, run: Callable[..., None], options: Mapping[str, Any]) -> None:
    """Let `workers` actors call `run(**options)`, each with its own `shard`. Raises UserError for a mistake
    that one of them met, for a cluster that is not there, and where all actors were lost."""
    ray = _connected(cluster.address)
    try:
        cores, gpus = (int(ray.cluster_resources().get(name, 0)) for name in ("CPU", "GPU"))
        share = max(1, cores // (gpus or workers))
        console.line(f"{workers} Ray actor(s), each with {share} core(s){' and a GPU' if gpus else ''}, share the work")
        actor = ray.remote(_Worker).options(
            num_cpus=share, num_gpus=1 if gpus else 0, max_restarts=RESTARTS, max_task_retries=RESTARTS
        )
        started = [actor.remote() for _ in range(workers)]  # held: an actor that nobody holds is ended
        shares = [{**options, "shard": f"{number}/{workers}"} for number in range(1, workers + 1)]
        _wait(ray, [one.work.remote(os.getcwd(), run, own) for one, own in zip(started, shares, strict=True)])
    finally:
        ray.shutdown()


def _connected(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault(LOOPBACK, "0")  # read when Ray is imported
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return ray
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray-address {address}: no cluster answers there ({_first_line(error)})") from error
    return ray


def _wait(ray: Any, results: list[Any]) -> None:
    """Until all actors are done; those that Ray gave up are named."""
    lost, waiting = 0, list(results)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        try:
            told = ray.get(done)
        except ray.exceptions.RayActorError as error:
            lost += 1
            console.warn(f"a Ray actor was lost ({_first_line(error)}); the others do its work")
            continue
        if told is not None:
            raise UserError(told[0], hint=told[1])
    if lost == len(results):
        raise UserError("all Ray actors were lost", hint="why is in Ray's logs: /tmp/ray/session_latest/logs")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
