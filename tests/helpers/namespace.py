"""Programs in namespaces of their own: a network that is loopback alone, and processes that all end with the first."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
UNSHARE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
RAY = (
    "ray start --head --node-ip-address=127.0.0.1 --num-cpus=2 --object-store-memory=100000000 "
    '--temp-dir="$RAY_TMPDIR" --include-dashboard=false --disable-usage-stats >/dev/null'
)


def is_allowed() -> bool:
    """Whether this user may make such namespaces, as root may in most places."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


def environment() -> dict[str, str]:
    """Where programs find this package and its tests."""
    programs = Path(sys.executable).parent
    return os.environ | dict(
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=f"{TESTS}{os.pathsep}{TESTS.parent}"
    )


def run(command: str, timeout: float, ray: str = RAY) -> subprocess.CompletedProcess:
    """Run a shell's command beside a Ray of two cores, which asks for a token."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary:  # sockets
        about = dict(
            RAY_TMPDIR=temporary,
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=secrets.token_hex(32),
            RAY_USAGE_STATS_ENABLED="0",
            RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        )
        shell = ["bash", "-euc", f"ip link set lo up\n{ray}\n{command}"]
        return subprocess.run(
            [*UNSHARE, *shell], env=environment() | about, capture_output=True, text=True, timeout=timeout
        )
