"""Pictures over HTTP: the dialects of other servers, jobs of our own, and the page."""

from importlib.util import find_spec

from ssd1b_jax.errors import RequestError

NEEDS = ("hypercorn", "markdown_it", "msgspec", "prometheus_client", "python_multipart", "starlette")


def check_installed(what: str) -> None:
    """Raise RequestError where a package that serving needs is missing. `what` needs it."""
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise RequestError(f"{what} needs {', '.join(missing)}: run pip install 'ssd1b_jax[serve]'")
