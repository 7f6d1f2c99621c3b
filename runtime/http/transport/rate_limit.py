"""How often one client may ask: a token bucket for each, in bounded memory."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

MAX_CLIENTS = 10_000
# Whoever holds an IPv6 address holds its whole /64, and could come from 2^64 addresses.
IPV6_PREFIX = 64


class RateLimiter:
    """A bucket of `per_minute` requests for each client, refilled evenly.

    The clients seen longest ago are forgotten beyond `max_clients`: to them that is a full bucket.
    """

    def __init__(
        self, per_minute: int, max_clients: int = MAX_CLIENTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow `per_minute` requests a minute, all of which may come at once."""
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60.0
        self._max_clients = max_clients
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client: tokens, at which time

    def __len__(self) -> int:
        """Clients remembered."""
        return len(self._buckets)

    def take(self, client: str) -> int:
        """Count one request of `client`; return 0, or after how many whole seconds it may ask again."""
        with self._lock:
            now = self._clock()
            tokens, then = self._buckets.pop(client, (self._capacity, now))
            tokens = min(self._capacity, tokens + (now - then) * self._per_second)
            allowed = tokens >= 1.0
            self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
            if len(self._buckets) > self._max_clients:
                self._buckets.popitem(last=False)
        return 0 if allowed else math.ceil((1.0 - tokens) / self._per_second)


@lru_cache(256)
def client_of_address(address: str) -> str:
    """The client that an address stands for: itself, of IPv6 its /64 network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return address
