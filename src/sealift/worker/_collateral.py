"""Collateral on L1 for this worker's platform: had, judged, brought, renewed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from sealift.attestation import (
    Collateral,
    CollateralMarks,
    TrustAnchor,
    VerifiedCollateral,
    parse_collateral,
    quote_fmspc,
    quote_pck_ca,
    verify_collateral,
)
from sealift.base import SealiftError, UnixSeconds, canonical_decode, encode
from sealift.insecure_sim import SimIntel
from sealift.protocol import CollateralRecord, collateral_key
from sealift.transport.clock import Clock, unix_seconds
from sealift.transport.pccs import PccsClient
from sealift.transport.rpc import L1Client

from ._errors import StalledError
from ._outbox import Outbox

#: Collateral on L1 that is older than this is renewed, in seconds.
_RENEW_SECONDS: Final = 7 * 24 * 3600
#: What expires within this is replaced by whatever lasts longer, in seconds.
_LAPSE_SECONDS: Final = 3 * 24 * 3600
#: The block time lags the wall clock: what we issue must not seem to come early.
_BACKDATE_SECONDS: Final = 120
#: For so many seconds a look at L1's collateral is good.
_LOOK_SECONDS: Final = 300.0
#: That there is none is news for less long: anybody may bring some.
_LOOK_SOON_SECONDS: Final = 5.0
_LOG: Final = logging.getLogger(__name__)


class CollateralSource(Protocol):
    """Where collateral comes from."""

    async def collateral(
        self, quote: bytes, known: CollateralMarks | None, now: UnixSeconds
    ) -> VerifiedCollateral:
        """Genuine collateral for a quote's platform, no older than what is known.

        Raises:
            SealiftError: There is none, or it is refused by name.
        """


class SimSource:
    """A simulated Intel's folder on this machine.

    Args:
        intel: Which.
    """

    def __init__(self, intel: SimIntel) -> None:
        self._intel = intel

    async def collateral(
        self, quote: bytes, known: CollateralMarks | None, now: UnixSeconds
    ) -> VerifiedCollateral:
        """Issued as it is asked for; an issuer is not held to what is known."""
        del quote, known
        return verify_collateral(
            parse_collateral(
                self._intel.collateral_json(now=UnixSeconds(now - _BACKDATE_SECONDS))
            ),
            root=TrustAnchor(root_der=self._intel.root_der, kind="insecure-sim"),
            now=now,
        )


class PccsSource:
    """A PCCS, believed as far as its word proves itself.

    Args:
        client: Which.
        roots: The roots that the bundle measures.
    """

    def __init__(self, client: PccsClient, roots: Sequence[TrustAnchor]) -> None:
        self._client = client
        self._roots = tuple(roots)

    async def collateral(
        self, quote: bytes, known: CollateralMarks | None, now: UnixSeconds
    ) -> VerifiedCollateral:
        """What it has for the quote's family of processors.

        Raises:
            PccsUnreachableError: It does not answer.
            PccsAnswerError: It lies, by the rules' names.
        """
        return await self._client.verified_collateral(
            quote_fmspc(quote),
            quote_pck_ca(quote),
            roots=self._roots,
            now=now,
            known=known,
        )


def seconds_left(
    known: CollateralRecord, *, roots: Sequence[TrustAnchor], now: UnixSeconds
) -> int | None:
    """Until collateral expires; ``None``: it holds under none of the roots."""
    for root in roots:
        try:
            collateral = canonical_decode(Collateral, known.collateral)
            verified = verify_collateral(collateral, root=root, now=now)
        except SealiftError:
            continue
        return verified.earliest_expiration - now
    return None


class CollateralKeeper:
    """Keeps L1's collateral for one platform fresh.

    Args:
        source: Where it comes from; ``None``: somebody else looks after it.
        roots: The roots that the bundle measures.
        l1: The chain.
        clock: The wall clock.
        quote: Asks the enclave for a quote, to learn what it runs on.
    """

    def __init__(
        self,
        *,
        source: CollateralSource | None,
        roots: Sequence[TrustAnchor],
        l1: L1Client,
        clock: Clock,
        quote: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._source = source
        self._roots = tuple(roots)
        self._l1 = l1
        self._clock = clock
        self._quote = quote
        self._fmspc: bytes | None = None
        self._left: int | None = None
        self._look_again = float("-inf")

    async def ensure_collateral(self, outbox: Outbox, quote: bytes) -> None:
        """Bring collateral for a quote's platform to L1, where L1's is older.

        Nobody is asked to pay for what would change nothing. While L1's own holds, a
        source that is silent or lies is no reason not to go on; it is told.

        Raises:
            SealiftError: L1 has none that holds, and none is to be had; by name.
            StalledError: L1 refused it, by name.
        """
        self._fmspc = quote_fmspc(quote)
        now = UnixSeconds(unix_seconds(self._clock))
        known = await self._known()
        left = None if known is None else self._seconds_left(known, now)
        if self._source is None:
            if left is None:
                raise StalledError(
                    "L1 has no collateral of this platform that holds",
                    hint="Name a PCCS: [enclave] pccs, or --pccs URL.",
                )
            return
        marks = None if known is None else _marks(known)
        try:
            fresh = await self._source.collateral(quote, marks, now)
        except SealiftError as error:
            if left is None:
                raise
            _LOG.warning("no newer collateral: %s", error)
            return
        if marks is not None and left is not None and not _advances(fresh.marks, marks):
            lasts = fresh.earliest_expiration - now
            if left > _LAPSE_SECONDS or lasts <= left:
                return
        outcome = await outbox.act(
            "teerex.register_collateral", {"collateral": encode(fresh.collateral)}
        )
        self._look_again = float("-inf")
        # Another worker of the same platform family may have been faster.
        if outcome.code and "older" not in outcome.log.lower():
            raise StalledError("L1 refused the platform's collateral", got=outcome.log)

    async def collateral_seconds_left(self) -> int | None:
        """Until L1's expires, as of the last minutes; ``None``: none holds.

        Judging it anew costs a dozen signatures.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._look_again:
            if self._fmspc is None:
                self._fmspc = quote_fmspc(await self._quote())
            known = await self._known()
            moment = UnixSeconds(unix_seconds(self._clock))
            self._left = None if known is None else self._seconds_left(known, moment)
            self._look_again = now + (
                _LOOK_SECONDS if self._left is not None else _LOOK_SOON_SECONDS
            )
        return self._left

    def _seconds_left(self, known: CollateralRecord, now: UnixSeconds) -> int | None:
        return seconds_left(known, roots=self._roots, now=now)

    async def _known(self) -> CollateralRecord | None:
        entry = await self._l1.abci_query(
            collateral_key(self._fmspc or b""), prove=False
        )
        if entry.value is None:
            return None
        return canonical_decode(CollateralRecord, entry.value)


def _marks(record: CollateralRecord) -> CollateralMarks:
    return CollateralMarks(
        tcb_info_issued=UnixSeconds(record.tcb_issued_at),
        qe_identity_issued=UnixSeconds(record.qe_issued_at),
        tcb_evaluation_data_number=record.tcb_evaluation_number,
        qe_evaluation_data_number=record.qe_evaluation_number,
        pck_crl_number=record.pck_crl_number,
        root_crl_number=record.root_crl_number,
    )


def _advances(fresh: CollateralMarks, known: CollateralMarks) -> bool:
    """Whether it says anything new, or is so much younger that it is worth a fee."""
    news = any(
        getattr(fresh, name) > getattr(known, name)
        for name in CollateralMarks.__struct_fields__
        if not name.endswith("issued")
    )
    return news or any(
        getattr(fresh, name) - getattr(known, name) >= _RENEW_SECONDS
        for name in ("tcb_info_issued", "qe_identity_issued")
    )
