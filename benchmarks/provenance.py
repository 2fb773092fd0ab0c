"""What a number was measured on, and with which code."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch


def machine(device: str) -> str:
    """The GPU's or the processor's name, where the system tells."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        if names:
            return f"{names[0]} ({len(names)} cores)"
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this checkout, if it is one."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
