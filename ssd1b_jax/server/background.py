"""A server in a thread of a process that does something else too, such as a notebook's kernel."""

import asyncio
import contextlib
import threading

from ssd1b_jax.server.service import Service
from ssd1b_jax.server.serving import Load, drain, serve

START_SECONDS = 60.0  # to be listening
CLOSE_SECONDS = 30.0  # for the thread to end


class Background:
    """Serves from when it is made until `close`, the end of a `with`, or the end of the process.

    `url` is its address, without a slash at the end. Raises RequestError for an address that is taken.
    """

    def __init__(self, service: Service, load: Load):
        self.service = service
        self.error: BaseException | None = None
        self._lines: list[str] = []
        self._listening = threading.Event()
        self._ready = threading.Event()  # or ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, args=(load,), name="ssd1b-page", daemon=True)
        self._thread.start()
        if not self._listening.wait(START_SECONDS):
            raise TimeoutError(f"the server was not listening in {START_SECONDS:.0f} s")
        if not self._lines:
            self._raise()
        self.url = self._lines[0].rstrip("/")

    def _run(self, load: Load) -> None:
        try:
            asyncio.run(self._serve(load))
        except BaseException as error:
            self.error = error
        finally:
            self._listening.set()
            self._ready.set()

    async def _serve(self, load: Load) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(self.service, load, self._told, self._stop)

    def _told(self, line: str) -> None:
        """The address comes first, then word that pictures are taken."""
        self._lines.append(line)
        (self._ready if len(self._lines) > 1 else self._listening).set()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_until_ready(self, timeout: float | int | None = None) -> None:
        """Return when pictures are taken. Raises what loading raised, and TimeoutError."""
        if not self._ready.wait(timeout):
            raise TimeoutError(f"the server was not ready in {timeout} s")
        self._raise()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def drain(self) -> None:
        """Answer what was accepted, then end, as SIGTERM does. Returns at once."""
        if self._stop is not None and self._loop is not None:
            asyncio.run_coroutine_threadsafe(drain(self.service, self._stop), self._loop)

    def close(self) -> None:
        """End; pictures that are not done are cancelled. The pipeline stays open."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_SECONDS)

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, *_) -> None:
        self.close()
