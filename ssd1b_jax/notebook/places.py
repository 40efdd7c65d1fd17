"""Where a notebook runs, and what that place offers: a file chooser, a drive, and a way to a port of its machine."""

import json
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ssd1b_jax.errors import RequestError

DRIVE = Path("/content/drive")


def is_colab() -> bool:
    """Whether this kernel is Colab's."""
    try:
        return find_spec("google.colab") is not None
    except ModuleNotFoundError:  # there is no `google` either
        return False


def upload() -> Path:
    """Ask for one file of the reader's computer; it is written into the working folder. Raises RequestError."""
    if not is_colab():
        raise RequestError("upload asks in Colab only: put the file into this notebook's folder, and give its name")
    given = import_module("google.colab.files").upload()
    if not given:
        raise RequestError("no file was chosen: run the cell again")
    return Path(next(iter(given)))


def drive(folder: str = "ssd1b") -> Path:
    """A folder of the reader's Google Drive, which outlives the machine; made if missing. Raises RequestError."""
    if not is_colab():
        raise RequestError("Google Drive can be reached in Colab only: give a folder of this machine instead")
    import_module("google.colab.drive").mount(str(DRIVE))
    path = DRIVE / "MyDrive" / folder
    path.mkdir(parents=True, exist_ok=True)
    return path


def colab_address(port: int) -> str:
    """The address at which Colab's proxy shows a port of its machine to the reader alone."""
    return import_module("google.colab.output").eval_js(f"google.colab.kernel.proxyPort({port})").rstrip("/")


def jupyter_path(port: int) -> str | None:
    """The path at which jupyter-server-proxy shows a port to whoever is logged in; None where there is no such proxy.

    The kernel knows its server by the process id that Jupyter gives it, or by JupyterHub's variable.
    """
    if find_spec("jupyter_server_proxy") is None:
        return None
    base = os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or _base_of(os.environ.get("JPY_PARENT_PID", ""))
    return f"{base.rstrip('/')}/proxy/{port}" if base is not None else None


def _base_of(pid: str) -> str | None:
    """The base path of the Jupyter server with this process id, from the file that it keeps while it runs."""
    runtime = import_module("jupyter_core.paths").jupyter_runtime_dir()
    try:
        return json.loads((Path(runtime) / f"jpserver-{pid}.json").read_text(encoding="utf-8"))["base_url"]
    except (OSError, ValueError, KeyError):
        return None
