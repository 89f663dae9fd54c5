"""The ingestion service, as a client of it."""

from __future__ import annotations

from typing import Final

import httpx

from event_consumer.letters.errors import DoorUnavailable
from event_consumer.letters.forms import RefusedAgain, judged
from event_consumer.letters.outgoing import DoorRequest
from event_core.settings import mask

ANSWER_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0


class Door:
    """The ingestion service at ``url``."""

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = mask(url)
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        # Never through a proxy that the environment names: the service is a neighbour.
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, transport=transport)

    async def send(self, request: DoorRequest) -> RefusedAgain | None:
        """None where the event is durable now. Raises DoorUnavailable."""
        try:
            reply = await self._client.post(request.path, headers=request.headers, content=request.content)
            return judged(reply.status_code, reply.content)
        except httpx.HTTPError as error:
            problem: object = repr(error)
        except DoorUnavailable as error:
            problem = error.message
        raise DoorUnavailable(
            f"the ingestion service at {self._url} did not take the event: {problem}. Is it running there? INGESTION_URL says "
            "where it is"
        )

    async def close(self) -> None:
        await self._client.aclose()
