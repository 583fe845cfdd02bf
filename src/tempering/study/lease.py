"""Who works on a cell: names of drivers, and whether the one that holds a lease is gone for certain."""

from __future__ import annotations

import os
import socket
import time


def owner_name() -> str:
    """``machine/process/start``: unique among all drivers of a study."""
    return f"{_place()}/{os.getpid()}/{time.time_ns()}"


def gone(owner: str) -> bool:
    """Whether the driver ``owner`` is known to have ended: it ran on this machine and its process is no more.

    Of a driver on another machine, or whose process number was given to another process, only the end of its lease tells.
    """
    place, _, rest = owner.partition("/")
    number = rest.partition("/")[0]
    if place != _place() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _place() -> str:
    """This machine; containers with process numbers of their own are machines of their own."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()}:{space}".replace("/", ":")
