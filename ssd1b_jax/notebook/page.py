"""The page of `ssd1b serve` inside a notebook: served by the kernel's own process, shown in the cell."""

import atexit
import html
import secrets
import socket

from ssd1b_jax.notebook import places
from ssd1b_jax.pipeline import Pipeline
from ssd1b_jax.server import check_installed

HEIGHT = 900  # pixels of the frame
_shown: "list[Page]" = []  # at most one


class Page:
    """A page that is served until `close`, until another one is shown, or until the kernel ends.

    `url` is where a browser finds it, with the key that it needs behind the `#`, which browsers keep to themselves.
    In a notebook the object shows itself: in a frame where the place has a proxy, which `is_framed` says, else as a
    link, which works for a browser on this machine.
    """

    def __init__(self, pipe: Pipeline):
        from ssd1b_jax.server.background import Background
        from ssd1b_jax.server.options import ServerOptions
        from ssd1b_jax.server.service import Service

        port, key = _free_port(), secrets.token_urlsafe(16)
        is_colab = places.is_colab()
        proxied = places.colab_address(port) if is_colab else places.jupyter_path(port)
        # With a key any Host is taken, which a proxy may pass on or not.
        options = ServerOptions(port=port, keys=(key,), origins=(proxied,) if is_colab else ())
        self._server = Background(Service(pipe.manifest.name, options), lambda: pipe)
        self.is_framed = proxied is not None
        self.url = f"{self._server.url if proxied is None else proxied}/#key={key}"
        atexit.register(self.close)

    def wait_until_ready(self, timeout: float | int | None = None) -> None:
        """Return when the page takes pictures; it says by itself that it is not ready yet. Raises TimeoutError."""
        self._server.wait_until_ready(timeout)

    @property
    def is_open(self) -> bool:
        return self._server.is_alive

    def close(self) -> None:
        """Serve no more. Pictures that are not done are cancelled; the pipeline stays open."""
        self._server.close()
        atexit.unregister(self.close)

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Page({self.url})"

    def _repr_html_(self) -> str:
        url = html.escape(self.url)
        link = f'<a href="{url}" target="_blank" rel="noopener">Open the page</a>'
        if not self.is_framed:
            return f"<p>{link} in a browser of this machine.</p>"
        allowed = "camera; clipboard-write; fullscreen"
        frame = f'<iframe src="{url}" width="100%" height="{HEIGHT}" allow="{allowed}" style="border: 0"></iframe>'
        return f"<p>{link} in a tab of its own.</p>{frame}"


def page(pipe: Pipeline) -> Page:
    """Serve the page with this pipeline, for this machine only, and show it where this is a cell's last value.

    The page that was shown before is closed. Raises RequestError where a package of the serve extra is missing.
    """
    check_installed("the page")
    while _shown:
        _shown.pop().close()
    shown = Page(pipe)
    _shown.append(shown)
    return shown


def _free_port() -> int:
    """A port of this machine that nobody listens at. Proxies are asked for it by number, before the server is there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]
