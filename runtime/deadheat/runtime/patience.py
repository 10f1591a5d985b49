"""How everybody waits for a store that is away: it was killed and is started again, or its
scheduler was too."""

from __future__ import annotations

from typing import Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_random_exponential

from deadheat.runtime.errors import DeadheatError, Unavailable

#: How long what needs a store that does not answer waits for it.
STORE_PATIENCE_S: Final = 60.0


def patiently(*passing: type[DeadheatError]) -> AsyncRetrying:
    """Tries as long as the store may be away; errors of `passing` kinds may pass as well."""
    return AsyncRetrying(
        stop=stop_after_delay(STORE_PATIENCE_S),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        retry=retry_if_exception_type((Unavailable, *passing)),
        reraise=True,
    )
