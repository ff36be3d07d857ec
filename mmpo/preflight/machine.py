"""Requirements on this machine: room on the disk, a device that computes in the number format, judges."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mmpo.chat.settings import ChatSettings, SamplerSettings
from mmpo.models.folder import check_model, find_model, no_such_model
from mmpo.preflight.context import Findings, PreflightContext
from mmpo.recipes.source import KeyPath as Keys
from mmpo.runs import is_main_process

WAIT = 2.0
"""Seconds for a judge's server to take a connection."""


def check_chat(found: Findings, path: Keys, settings: ChatSettings) -> None:
    """A text model: its key and address, or its folder. A server that does not answer now is a warning."""
    if settings.backend == "local":
        folder = find_model(settings.model)
        with found.noting((*path, "model")):
            if folder is None:
                raise no_such_model(settings.model)
            check_model(folder, settings.model, processor=False)
        return
    if settings.api_key_env is not None and not os.environ.get(settings.api_key_env):
        found.error(
            (*path, "api_key_env"),
            f"the environment variable {settings.api_key_env} is not set",
            f"export {settings.api_key_env}=…, in the shell that runs mmpo",
        )
    with found.noting((*path, "base_url")):
        from mmpo.chat.server import checked_address

        address = urlsplit(checked_address(settings.base_url or ""))
        host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
        if is_main_process() and (why := _unreachable(host, port)):
            found.warn(
                (*path, "base_url"),
                f"{host}:{port} takes no connection now ({why})",
                "start the server before the judge is needed",
            )


def check_sampler(found: PreflightContext, path: Keys, settings: SamplerSettings) -> None:
    """The server that answers: it must be there, and know the models by their names."""
    check_chat(found, path, settings.chat(settings.model))
    if is_main_process() and not found.has_error(path):
        from mmpo.chat.served_models import check_served

        with found.noting(path):
            check_served(settings.model_copy(update={"retries": 1, "longest_wait": WAIT, "first_wait": 0.1}))


def _unreachable(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=WAIT).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def check_dtype(found: Findings, path: Keys, dtype: str) -> None:
    """Warn where the device is slow in bfloat16; only where torch is loaded anyway."""
    if dtype != "bfloat16":
        return
    import torch

    if not torch.cuda.is_available():
        found.warn(path, "bfloat16 without a GPU is slow", "dtype: float32 on a CPU")
    elif torch.cuda.get_device_capability() < (8, 0):
        name = torch.cuda.get_device_name()
        found.warn(path, f"{name} has no bfloat16 of its own and computes it slowly", "dtype: float32")


def check_room(
    found: Findings,
    place: Path,
    needs: Mapping[str, tuple[int, int]],
    *,
    what: str = "the run",
    otherwise: str = "--out DIR",
) -> None:
    """Room in the folder `place` for what will be written, as (least, likely) bytes of each part: too little for the
    least is an error, for what is likely a warning. `otherwise` is what names another folder."""
    if not needs:
        return
    there = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    if not there.is_dir():
        return  # reported elsewhere
    if not os.access(there, os.W_OK | os.X_OK) or _read_only(there):
        found.error(
            (), f"no permission to write in {there}, where {what}'s folder is to be", f"{otherwise} names another"
        )
        return
    free = shutil.disk_usage(there).free
    least, likely = (sum(one[side] for one in needs.values()) for side in (0, 1))
    parts = ", ".join(f"{name} {size(both[1])}" for name, both in needs.items())
    message = f"the disk of {there} has {size(free)} free, and {what} needs about {size(likely)} ({parts})"
    if free < likely:
        (found.error if free < least else found.warn)((), message, f"free space, or {otherwise} on another disk")


def _read_only(place: Path) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def size(count: int) -> str:
    """`3 MB`, `1.4 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
