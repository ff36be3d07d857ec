"""What this machine must have: room on the disk, packages, a device that computes in the number format, judges."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

from mmpo.chat.settings import ChatSettings
from mmpo.models.folder import check_model, find_model, no_such_model
from mmpo.preflight.context import Context
from mmpo.recipes.source import Path as Keys
from mmpo.runs import is_main_process

WAIT = 2.0
"""Seconds for a judge's server to take a connection."""


def check_chat(context: Context, path: Keys, settings: ChatSettings) -> None:
    """A text model: its key and address, or its folder. A server that does not answer now is a warning."""
    if settings.backend == "local":
        folder = find_model(settings.model)
        with context.noting((*path, "model")):
            if folder is None:
                raise no_such_model(settings.model)
            check_model(folder, settings.model, processor=False)
        return
    if settings.api_key_env is not None and not os.environ.get(settings.api_key_env):
        context.error(
            (*path, "api_key_env"),
            f"the environment variable {settings.api_key_env} is not set",
            f"export {settings.api_key_env}=…, in the shell that runs mmpo",
        )
    with context.noting((*path, "base_url")):
        from mmpo.chat.server import checked_address

        address = urlsplit(checked_address(settings.base_url or ""))
        host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
        if is_main_process() and (why := _unreachable(host, port)):
            context.warn(
                (*path, "base_url"),
                f"{host}:{port} takes no connection now ({why})",
                "start the server before the judge is needed",
            )


def _unreachable(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=WAIT).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def check_dtype(context: Context, path: Keys, dtype: str) -> None:
    """Whether the device computes in bfloat16; only where torch is loaded anyway."""
    if dtype != "bfloat16":
        return
    import torch

    if not torch.cuda.is_available():
        context.warn(path, "bfloat16 without a GPU is slow", "dtype: float32 on a CPU")
    elif torch.cuda.get_device_capability() < (8, 0):
        name = torch.cuda.get_device_name()
        context.warn(path, f"{name} has no bfloat16 of its own and computes it slowly", "dtype: float32")


def check_package(context: Context, path: Keys, package: str, what: str, install: str) -> None:
    """An optional package that a setting needs."""
    if importlib.util.find_spec(package) is None:
        context.error(path, f"{what} needs the package {package}", install)


def check_disk(context: Context) -> None:
    """Room for what the sections will write; too little for the least is an error, for what is likely a warning."""
    if not context.bytes:
        return
    place = next(one for one in (context.run.absolute(), *context.run.absolute().parents) if one.exists())
    if not place.is_dir():
        return  # told elsewhere
    if not os.access(place, os.W_OK | os.X_OK) or _read_only(place):
        context.error(
            (), f"no permission to write in {place}, where the run folder is to be", "--out DIR names another"
        )
        return
    free = shutil.disk_usage(place).free
    least, likely = (sum(one[side] for one in context.bytes.values()) for side in (0, 1))
    parts = ", ".join(f"{name} {size(both[1])}" for name, both in context.bytes.items())
    message = f"the disk of {place} has {size(free)} free, and the run needs about {size(likely)} ({parts})"
    if free < likely:
        (context.error if free < least else context.warn)((), message, "free space, or --out DIR on another disk")


def _read_only(place: Path) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def size(count: int) -> str:
    """`3 MB`, `1.4 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
