"""Step 4: instances, each by its quote; and whether one may speak now."""

from dataclasses import dataclass, field
from typing import Final

import msgspec

from sealift.attestation import (
    AnchorKind,
    AttestationError,
    AttestedHeights,
    Collateral,
    TrustAnchor,
    VerifiedQuote,
    policy_failures,
    quote_fmspc,
    verify_quote,
)
from sealift.base import (
    AccountId,
    Generation,
    Height,
    PlatformId,
    SealiftError,
    canonical_decode,
)
from sealift.protocol import (
    CollateralRecord,
    EnclaveRecord,
    Schedule,
    ScheduleEntry,
    ShardStatus,
    Statement,
    collateral_key,
)

from ._calls import EnclaveRegistered, Register
from ._errors import InstanceRefusedError
from ._proven import ProvenCall, ProvenFile

#: The name in ``ShardConfig.code`` that evidence under a kind of root speaks for.
_PLATFORM_OF: Final[dict[AnchorKind, str]] = {
    "intel": "gramine-sgx",
    "insecure-sim": "insecure-sim",
}
_COLLATERAL_PREFIX: Final = collateral_key(b"")


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A record as a policy looks at it."""

    status: str
    advisories: tuple[str, ...]
    tcb_evaluation_data_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownCollateral:
    """The ledger's collateral of a family, from when to when at least."""

    fmspc: bytes
    since: Height
    until: Height
    collateral: Collateral


@dataclass(slots=True)
class Instances:
    """Registered instances of a shard as they stand while the file is replayed.

    Args:
        proven: The file, after step 1.
        roots: Under which quotes are believed.
    """

    proven: ProvenFile
    roots: tuple[TrustAnchor, ...]
    records: dict[AccountId, EnclaveRecord] = field(default_factory=dict)
    #: All that were ever verified, with the generation that admitted them.
    seen: dict[AccountId, tuple[EnclaveRecord, Generation]] = field(
        default_factory=dict
    )
    _known: list[_KnownCollateral] | None = None

    def register(self, call: ProvenCall, given: Register, schedule: Schedule) -> None:
        """Note an instance, or its newer attestation.

        1. The statement is for this shard, signed by its key, for this account.
        2. The quote is genuine at block time under the roots given, by the
           collateral that the ledger had.
        3. It was made over this very statement.
        4. The entry that L1 says admitted it names this code and accepts it.

        Raises:
            InstanceRefusedError: One of them fails.
        """
        statement, who = given.statement, _Who(call)
        who.require(  # 1
            (statement.chain_id, statement.shard, statement.operator)
            == (self.proven.chain_id, self.proven.shard, call.signer),
            "was registered for another shard or account",
            got=statement.shard,
            expected=self.proven.shard,
        )
        who.signed(statement, statement.signing_key, given.signature)
        quote = self._quote(call, given.quote)  # 2
        who.require(  # 3
            quote.report_data == statement.report_data(),
            "shows a quote over something else",
            got=quote.report_data,
            expected=statement.report_data(),
        )
        known = self.records.get(statement.signing_key)
        record = EnclaveRecord(
            statement=statement,
            operator=call.signer,
            platform=_PLATFORM_OF[quote.anchor],
            fingerprint=quote.mrenclave,
            mr_signer=quote.mrsigner,
            isv_prod_id=quote.isv_prod_id,
            isv_svn=quote.isv_svn,
            platform_id=quote.platform_id,
            tcb_status=quote.status,
            advisories=quote.advisories,
            tcb_evaluation_number=quote.tcb_evaluation_data_number,
            registered_at=known.registered_at if known else call.height,
            attested_at=call.height,
        )
        admitted = next(
            (e for e in call.events if isinstance(e, EnclaveRegistered)), None
        )
        who.require(
            admitted, "was not registered by its own transaction", got=None, expected=""
        )
        generation = Generation(0 if admitted is None else admitted.generation)
        entry = schedule.entry(generation)
        refusals = refusals_of(record, entry, schedule.status, height=call.height)  # 4
        who.require(
            not refusals,
            f"is none that generation {generation} accepts",
            got="; ".join(refusals),
            expected=f"MRENCLAVE {entry.config.code.get(record.platform, b'').hex()}",
        )
        since = _unbroken_since(record, known, entry, height=call.height)
        record = msgspec.structs.replace(record, unbroken_since=since)
        self.records[statement.signing_key] = record
        self.seen[statement.signing_key] = (record, generation)

    def unregister(self, signing_key: AccountId) -> None:
        """Forget an instance that left the registry."""
        self.records.pop(signing_key, None)

    def speaker(
        self,
        statement: Statement,
        signing_key: AccountId,
        signature: bytes,
        *,
        entry: ScheduleEntry,
        status: ShardStatus,
        height: Height,
    ) -> PlatformId:
        """The machine of an instance that may say this now, and has signed it.

        Raises:
            InstanceRefusedError: It has not, is not known, or may not.
        """
        what = type(statement).__name__
        record = self.records.get(signing_key)
        if record is None:
            raise InstanceRefusedError(
                f"{what} in block {height} by an instance without evidence",
                got=signing_key,
                expected="one whose registration and quote the file has",
            )
        try:
            statement.verify(signing_key, signature)
        except SealiftError as error:
            raise InstanceRefusedError(
                f"{what} in block {height} is not signed by its instance",
                expected=signing_key,
            ) from error
        refusals = refusals_of(record, entry, status, height=height)
        if refusals:
            raise InstanceRefusedError(
                f"{what} in block {height} is by an instance that may not speak "
                f"for generation {entry.generation}",
                got="; ".join(refusals),
                expected="an eligible one",
            )
        return record.platform_id

    def counts(
        self,
        signing_key: AccountId,
        entry: ScheduleEntry,
        status: ShardStatus,
        *,
        height: Height,
    ) -> bool:
        """Whether who spoke before is eligible now."""
        record = self.records.get(signing_key)
        return record is not None and not refusals_of(
            record, entry, status, height=height
        )

    def _quote(self, call: ProvenCall, quote: bytes) -> VerifiedQuote:
        who = _Who(call)
        try:
            fmspc = quote_fmspc(quote)
        except AttestationError as error:
            raise who.refusal(f"shows no quote ({error.what})") from error
        refusal = who.refusal(
            "shows a quote without the ledger's collateral of that time",
            expected=f"a state proof of the collateral of FMSPC {fmspc.hex()}",
        )
        for known in self._collateral():
            if known.fmspc != fmspc or not known.since <= call.height <= known.until:
                continue
            for root in self.roots:
                try:
                    return verify_quote(
                        quote, collateral=known.collateral, root=root, now=call.time
                    )
                except AttestationError as error:
                    refusal = who.refusal(f"shows a quote that is refused ({error})")
        raise refusal

    def _collateral(self) -> list[_KnownCollateral]:
        """What the ledger judged quotes by, and when.

        A state at ``p`` that has a record of block ``r`` had it in all blocks from
        ``r`` to ``p``; and ``p + 1`` begins with it.
        """
        if self._known is None:
            self._known = []
            for (height, key), value in self.proven.states.items():
                if not key.startswith(_COLLATERAL_PREFIX) or value is None:
                    continue
                try:
                    record = canonical_decode(CollateralRecord, value)
                    collateral = canonical_decode(Collateral, record.collateral)
                except SealiftError as error:
                    raise InstanceRefusedError(
                        f"collateral of block {height} cannot be read ({error.what})"
                    ) from error
                self._known.append(
                    _KnownCollateral(
                        fmspc=key.removeprefix(_COLLATERAL_PREFIX),
                        since=record.recorded_at,
                        until=Height(height + 1),
                        collateral=collateral,
                    )
                )
        return self._known


def refusals_of(
    record: EnclaveRecord, entry: ScheduleEntry, status: ShardStatus, *, height: Height
) -> tuple[str, ...]:
    """Why an instance may not speak for a generation at a height; empty if it may.

    Its code on its platform, vendor and product, version, operator; and the
    entry's policy, narrowed by the floors.
    """
    config = entry.config
    floor = max(config.min_isv_svn, status.min_isv_svn)
    found: list[str] = []
    if record.fingerprint != config.code.get(record.platform):
        found.append(f"MRENCLAVE {record.fingerprint.hex()} on {record.platform}")
    if config.mr_signer not in (None, record.mr_signer):
        found.append(f"MRSIGNER {record.mr_signer.hex()}")
    if config.isv_prod_id not in (None, record.isv_prod_id):
        found.append(f"product {record.isv_prod_id}")
    if record.isv_svn < floor:
        found.append(f"ISV_SVN {record.isv_svn} < {floor}")
    if config.operators and record.operator not in config.operators:
        found.append(f"operator {record.operator.hex()}")
    policy = msgspec.structs.replace(
        config.attestation,
        rejected_advisories=(
            *config.attestation.rejected_advisories,
            *status.rejected_advisories,
        ),
        min_tcb_evaluation_number=max(
            config.attestation.min_tcb_evaluation_number,
            status.min_tcb_evaluation_number,
        ),
        not_before=Height(max(config.attestation.not_before, status.not_before)),
    )
    found += map(
        str,
        policy_failures(
            _Recorded(
                record.tcb_status, record.advisories, record.tcb_evaluation_number
            ),
            policy,
            heights=AttestedHeights(attested_at=record.attested_at, judged_at=height),
        ),
    )
    return tuple(found)


def _unbroken_since(
    record: EnclaveRecord,
    known: EnclaveRecord | None,
    entry: ScheduleEntry,
    *,
    height: Height,
) -> Height:
    if known is None or height - known.attested_at > (
        entry.config.attestation.max_age_blocks
    ):
        return height
    same = (known.platform, known.platform_id, known.fingerprint) == (
        record.platform,
        record.platform_id,
        record.fingerprint,
    )
    return known.unbroken_since if same else height


class _Who:
    """Says of which registration a refusal is."""

    __slots__ = ("_where",)

    def __init__(self, call: ProvenCall) -> None:
        self._where = f"the instance of transaction {call.index} in block {call.height}"

    def refusal(self, what: str, *, expected: object = None) -> InstanceRefusedError:
        return InstanceRefusedError(f"{self._where} {what}", expected=expected)

    def require(
        self, holds: object, what: str, *, got: object, expected: object
    ) -> None:
        if not holds:
            raise InstanceRefusedError(
                f"{self._where} {what}", got=got, expected=expected
            )

    def signed(self, statement: Statement, key: AccountId, signature: bytes) -> None:
        try:
            statement.verify(key, signature)
        except SealiftError as error:
            raise InstanceRefusedError(
                f"{self._where} did not sign its statement", expected=key
            ) from error
