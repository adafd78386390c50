"""What the load generator runs on."""

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str]:
    """What this is: processor, cores, system, versions."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "locust": version("locust"),
        "gevent": version("gevent"),
        "glyph-loadtest": version("glyph-loadtest"),
    }


def _processor() -> str:
    with suppress(OSError):  # only Linux has the file
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
