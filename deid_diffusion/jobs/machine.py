"""Knows how many workers this machine carries: cores and memory, also inside a container."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use: by its affinity, and by a container's quota.

    Args:
        cgroup: folder of the control group, version 2.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = _read(cgroup / "cpu.max").split()
    if len(words) == 2 and words[0].isdecimal():
        count = min(count, -(-int(words[0]) // int(words[1])))
    return max(count, 1)


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that new processes may take: what the system calls available, and what a container has left.

    Args:
        cgroup: folder of the control group, version 2.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        rows = dict(row.split() for row in _read(cgroup / "memory.stat").splitlines())
        free = min(free, int(limit) - int(used) + int(rows.get("inactive_file", 0)))  # cached files make room
    return max(free, 0)


def own_memory() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def one_thread() -> None:
    """From now on this process computes in one thread. To be called before a model is loaded.

    The last bits of a picture depend on the number of threads: with one each, they do not depend on the number of
    workers. And threads of several processes wait for each other.
    """
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def quiet_libraries() -> None:
    """No warnings of libraries, where the environment asks for that as `deid` does."""
    if os.environ.get("TRANSFORMERS_VERBOSITY") == "error":
        warnings.simplefilter("ignore")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
