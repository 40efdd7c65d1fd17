"""The rest of a body that nobody reads, because its request was refused.

A connection that is closed while its client still sends is reset, and the client never sees the answer. So the rest is
read and thrown away first, for a short time and up to a size.
"""

import asyncio

from starlette.types import Message, Receive

DISCARD_SECONDS = 2.0
DISCARD_BYTES = 64 << 20


class Incoming:
    """The messages of one request."""

    def __init__(self, receive: Receive):
        self._receive = receive
        self._is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_complete = True
        return message

    async def discard(self) -> None:
        """Read what is left of the body, within limits."""
        size = 0
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self._is_complete and size < DISCARD_BYTES:
                    size += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
