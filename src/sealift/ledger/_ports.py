"""The small things that pallets need of each other and of the outside."""

from typing import Protocol

from sealift.attestation import AnchorKind, CollateralMarks, Tee, TrustAnchor
from sealift.base import (
    AccountId,
    Amount,
    Digest,
    Fingerprint,
    Message,
    MrSigner,
    PlatformId,
    ShardId,
    UnixSeconds,
)
from sealift.frame import Context
from sealift.protocol import (
    EnclaveRecord,
    Order,
    Schedule,
    ScheduleEntry,
    StakeAuthority,
    WorkersAuthority,
)


class CollateralVerdict(Message, kw_only=True):
    """What the ledger needs to know of verified collateral."""

    fmspc: bytes
    tee: Tee
    anchor: AnchorKind
    marks: CollateralMarks


class Evidence(Protocol):
    """What the ledger reads off a verified quote.

    :class:`sealift.attestation.VerifiedQuote` is one.
    """

    @property
    def anchor(self) -> AnchorKind:
        """The kind of root that it leads to."""

    @property
    def status(self) -> str:
        """The TCB status."""

    @property
    def advisories(self) -> tuple[str, ...]:
        """The advisories that apply."""

    @property
    def tcb_evaluation_data_number(self) -> int:
        """The number of the TCB info that judged it."""

    @property
    def platform_id(self) -> PlatformId:
        """The machine."""

    @property
    def report_data(self) -> bytes:
        """64 bytes."""

    @property
    def mrenclave(self) -> Fingerprint:
        """The code."""

    @property
    def mrsigner(self) -> MrSigner:
        """Its vendor."""

    @property
    def isv_prod_id(self) -> int:
        """The vendor's product number."""

    @property
    def isv_svn(self) -> int:
        """The code's security version."""


class QuoteVerifier(Protocol):
    """Judges evidence; pure, the same on every node."""

    def quote_fmspc(self, quote: bytes) -> bytes:
        """The FMSPC a quote claims, unverified.

        Raises:
            AttestationError: Not a quote.
        """

    def verify_quote(
        self,
        quote: bytes,
        *,
        collateral: bytes,
        anchors: tuple[TrustAnchor, ...],
        now: UnixSeconds,
    ) -> Evidence:
        """Evidence that is genuine under one of the roots.

        Args:
            quote: Raw bytes.
            collateral: As ``CollateralRecord.collateral`` has it.
            anchors: At least one root.
            now: Block time.

        Raises:
            AttestationError: With every broken rule.
        """

    def verify_collateral(
        self, collateral: bytes, *, anchors: tuple[TrustAnchor, ...], now: UnixSeconds
    ) -> CollateralVerdict:
        """What the collateral is for, if one of the roots issued it.

        Raises:
            AttestationError: With every broken rule.
        """


class BlockHashes(Protocol):
    """Hashes of the last blocks."""

    def block_hash(self, ctx: Context, height: int) -> Digest | None:
        """The hash of a block, if it is one of the last 256."""


class Shards(Protocol):
    """What the registry asks about shards."""

    def schedule_of(self, ctx: Context, shard: ShardId) -> Schedule:
        """The schedule.

        Raises:
            UnknownShardError: No such shard.
        """

    def admissible(self, ctx: Context, shard: ShardId) -> tuple[ScheduleEntry, ...]:
        """Entries whose code may be registered, the running one first.

        Raises:
            UnknownShardError: No such shard.
        """


class Instances(Protocol):
    """What the bridge asks about registered enclaves."""

    def instance(
        self, ctx: Context, shard: ShardId, signing_key: AccountId
    ) -> EnclaveRecord:
        """The record of an instance of this shard.

        Raises:
            NotRegisteredError: There is none.
        """

    def find_instance(
        self, ctx: Context, shard: ShardId, signing_key: AccountId
    ) -> EnclaveRecord | None:
        """The record of an instance of this shard, if there is one."""

    def all_instances(self, ctx: Context, shard: ShardId) -> tuple[EnclaveRecord, ...]:
        """Records of all instances of a shard, live or not, by signing key.

        Charges weight for each.
        """


class Orders(Protocol):
    """What the council asks about shards, and tells of votes."""

    def schedule_of(self, ctx: Context, shard: ShardId) -> Schedule:
        """The schedule.

        Raises:
            UnknownShardError: No such shard.
        """

    def require_known(self, order: Order) -> None:
        """Return if this version of the runtime has such orders.

        Raises:
            CallArgumentsError: It hasn't.
        """

    def note_vote(
        self, ctx: Context, order: Order, voted: StakeAuthority | WorkersAuthority
    ) -> None:
        """A vote was for an order; carry it out if that is enough.

        Raises:
            SealiftError: The order is not for here and now.
        """


class Vault(Protocol):
    """What the bridge asks of balances."""

    def move(
        self, ctx: Context, source: AccountId, dest: AccountId, amount: Amount
    ) -> None:
        """Move funds.

        Raises:
            InsufficientFundsError: The source has less.
            ExistentialDepositError: Too little for the destination to exist.
        """

    def burn(self, ctx: Context, source: AccountId, amount: Amount) -> None:
        """Destroy funds.

        Raises:
            InsufficientFundsError: The source has less.
        """
