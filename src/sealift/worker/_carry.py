"""Which strangers' calls are carried to L1 at the operator's expense.

Whoever can reach the worker can have it pay. So there is a gate: it lets only
through what could be a sealed call, so many a minute, and nothing once the
operator's account is down to what confirmations and attestation will need.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sealift.protocol import SIZE_CLASSES, Envelope

from ._errors import (
    CarryOffError,
    CarryRateError,
    CarryReserveError,
    EnvelopeSizeError,
)

#: What HPKE adds to a padded call: encapsulated key and tag
#: (:func:`sealift.crypto.hpke_seal`).
_HPKE_BYTES: Final = 48
#: Sizes that the ciphertext of a sealed call can have.
CIPHERTEXT_SIZES: Final = tuple(size + _HPKE_BYTES for size in SIZE_CLASSES)
#: Addresses that are remembered; the longest unseen is forgotten first.
_MOST_ADDRESSES: Final = 4096
#: For so long a reading of the operator's funds is good.
_FUNDS_SECONDS: Final = 2.0
_MINUTE: Final = 60.0
#: Whoever has one IPv6 address has all of its network.
_IPV6_PREFIX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryTerms:
    """What the operator allows: calls a minute, and the balance that is kept."""

    carry: bool
    reserve: int
    per_minute: int
    per_address: int


class _Bucket:
    """A token bucket that holds the calls of one minute; full at the start."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._rate = per_minute / _MINUTE
        self._most = self._tokens = float(per_minute)
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 where there is one."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._tokens) / self._rate)

    def take(self) -> None:
        self._tokens -= 1.0


class CarryGate:
    """Admits a call to be carried, or says by name why not.

    Args:
        terms: What the operator allows.
        funds: The operator's free balance on L1.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        terms: CarryTerms,
        *,
        funds: Callable[[], Awaitable[int]],
        now: Callable[[], float],
    ) -> None:
        self._terms = terms
        self._read_funds = funds
        self._now = now
        self._all = _Bucket(terms.per_minute, now())
        self._by_address: OrderedDict[str, _Bucket] = OrderedDict()
        self._funds = 0
        self._funds_until = float("-inf")

    async def admit(self, envelope: Envelope, raw_size: int, *, peer: str) -> None:
        """Return only if this call is to be carried; it counts as carried then.

        1. The worker carries. 2. It could be a sealed call: what L1 would not
        take, or no enclave could open, is not paid for. 3. Neither this address
        nor all together ask too often. 4. The account keeps its reserve.

        Args:
            envelope: What is to be carried.
            raw_size: Bytes of it; fees go by the byte.
            peer: The address that asks.

        Raises:
            CarryOffError: 1.
            EnvelopeSizeError: 2.
            CarryRateError: 3.
            CarryReserveError: 4.
            SealiftError: L1 does not say what the account has.
        """
        if not self._terms.carry:  # 1
            raise CarryOffError(
                "this worker carries no calls",
                hint="Carry it by an L1 account of your own, or ask another worker.",
            )
        size = len(envelope.ciphertext)
        if size not in CIPHERTEXT_SIZES:  # 2
            raise EnvelopeSizeError(
                "no sealed call has this size",
                got=f"{size} B",
                expected=f"one of {', '.join(map(str, CIPHERTEXT_SIZES))} B",
                hint="Seal it with this release's client.",
            )
        self._require_rate(peer)  # 3
        await self._require_reserve(raw_size)  # 4

    def _require_rate(self, peer: str) -> None:
        now = self._now()
        mine = self._bucket(network_of(peer), now)
        for bucket, limit, whose in (
            (mine, self._terms.per_address, "from this address"),
            (self._all, self._terms.per_minute, "from all together"),
        ):
            seconds = bucket.wait(now)
            if seconds:
                raise CarryRateError(
                    f"too many calls {whose}",
                    expected=f"≤ {limit} a minute",
                    hint=f"Try again in {seconds:.0f} s, or ask another worker.",
                )
        mine.take()
        self._all.take()

    def _bucket(self, network: str, now: float) -> _Bucket:
        found = self._by_address.get(network)
        if found is None:
            while len(self._by_address) >= _MOST_ADDRESSES:
                self._by_address.popitem(last=False)
            found = _Bucket(self._terms.per_address, now)
            self._by_address[network] = found
        self._by_address.move_to_end(network)
        return found

    async def _require_reserve(self, raw_size: int) -> None:
        """Judge by a recent reading, less what was carried since."""
        if self._now() >= self._funds_until:
            self._funds = await self._read_funds()
            self._funds_until = self._now() + _FUNDS_SECONDS
        if self._funds - raw_size < self._terms.reserve:
            raise CarryReserveError(
                "the operator's account is down to its reserve",
                got=self._funds,
                expected=f"> {self._terms.reserve} ([api] carry_reserve)",
                hint="Ask another worker, or the operator to refill the account.",
            )
        self._funds -= raw_size


def network_of(peer: str) -> str:
    """What counts as one address: an IPv4 address, an IPv6 network of /64."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
