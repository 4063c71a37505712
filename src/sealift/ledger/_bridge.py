"""`enclave_bridge`: what accounts do with shards, over schedules and roots."""

from typing import ClassVar

from sealift.base import AccountId, Amount, Epoch, ShardId
from sealift.crypto import sha256
from sealift.frame import Context, Event, PalletError, call, ensure_signed
from sealift.protocol import SIZE_CLASSES, Schedule

from ._bridge_keys import EpochKeeper
from ._bridge_storage import (
    CertificatePosted,
    EffectFailed,
    EffectsConflicting,
    EffectsExecuted,
    EffectsRefuted,
    EffectsVoted,
    EpochActivated,
    FundsShielded,
    FundsUnshielded,
    GenerationActivated,
    GenerationCancelled,
    GenerationLapsed,
    GenerationPostponed,
    GenerationScheduled,
    GenerationVoided,
    Invoked,
    KeyPublished,
    KeysHeld,
    KeysStaged,
    OrderEndorsed,
    OrderFailed,
    OrderRecorded,
    RootConfirmed,
    RootsConflicting,
    RootVoted,
    RulesChanged,
    RulesScheduled,
    ShardCreated,
    ShardTouched,
    StakeDecided,
    StatusChanged,
    UnshieldOwed,
    vault_account,
)
from ._eligibility import require_eligible
from ._errors import (
    BrokenRootChainError,
    CancelTooLateError,
    CertificateError,
    CiphertextSizeError,
    ConfirmationRangeError,
    DisputedEffectsError,
    DisputedRangeError,
    EffectsDoneError,
    EffectsFullError,
    EffectsMismatchError,
    EffectsRangeError,
    EffectsRefutedError,
    EffectsRepeatedError,
    EpochHeldError,
    EpochOrderError,
    EpochPublishedError,
    EpochStagedError,
    FloorLoweredError,
    KeyPolicyError,
    NoChangeError,
    NoRotationError,
    NothingShieldedError,
    NothingStagedError,
    NoticeError,
    NotPendingError,
    OperatorRefusedError,
    OrderExpiredError,
    OrderForeignError,
    OrderOpenError,
    OrderSerialError,
    OrderSignatureError,
    PostponementError,
    PredecessorError,
    RotationAttestationError,
    RotationDemandError,
    RotationEarlyError,
    RotationError,
    RulesFixedError,
    ScheduleFullError,
    ShardLimitError,
    ShardMaintenanceError,
    ShardNotBornError,
    ShardRulesError,
    StagedKeysError,
    StaleConfirmationError,
    StatementForeignError,
    UnknownShardError,
    VendorOrderError,
    VoidedGenerationError,
    WrongGenerationError,
)

#: An envelope is a padded call, sealed: HPKE and codec add less than this.
MAX_CIPHERTEXT = SIZE_CLASSES[-1] + 256


class EnclaveBridge(EpochKeeper):
    """The one pallet that enclaves watch."""

    name = "enclave_bridge"
    events: ClassVar[tuple[type[Event], ...]] = (
        RulesScheduled,
        GenerationPostponed,
        RulesChanged,
        OrderFailed,
        OrderEndorsed,
        CertificatePosted,
        FundsShielded,
        GenerationActivated,
        GenerationCancelled,
        GenerationLapsed,
        GenerationScheduled,
        GenerationVoided,
        Invoked,
        KeyPublished,
        OrderRecorded,
        RootConfirmed,
        RootVoted,
        RootsConflicting,
        ShardCreated,
        ShardTouched,
        StatusChanged,
        EffectsVoted,
        EffectsExecuted,
        EffectFailed,
        EffectsConflicting,
        EffectsRefuted,
        FundsUnshielded,
        UnshieldOwed,
        StakeDecided,
        KeysStaged,
        KeysHeld,
        EpochActivated,
    )
    errors: ClassVar[tuple[type[PalletError], ...]] = (
        RotationError,
        NoChangeError,
        RulesFixedError,
        PostponementError,
        OrderOpenError,
        VendorOrderError,
        BrokenRootChainError,
        CancelTooLateError,
        CertificateError,
        CiphertextSizeError,
        ConfirmationRangeError,
        DisputedRangeError,
        EpochOrderError,
        EpochPublishedError,
        FloorLoweredError,
        NotPendingError,
        NothingShieldedError,
        NoticeError,
        OperatorRefusedError,
        OrderExpiredError,
        OrderForeignError,
        OrderSerialError,
        OrderSignatureError,
        PredecessorError,
        ScheduleFullError,
        ShardLimitError,
        ShardMaintenanceError,
        ShardNotBornError,
        ShardRulesError,
        StaleConfirmationError,
        StatementForeignError,
        UnknownShardError,
        VoidedGenerationError,
        WrongGenerationError,
        EffectsMismatchError,
        EffectsRangeError,
        EffectsDoneError,
        EffectsRefutedError,
        EffectsRepeatedError,
        EffectsFullError,
        DisputedEffectsError,
        NoRotationError,
        RotationAttestationError,
        RotationDemandError,
        RotationEarlyError,
        EpochStagedError,
        KeyPolicyError,
        NothingStagedError,
        StagedKeysError,
        EpochHeldError,
    )

    @call(weight=100)
    def invoke(self, ctx: Context, *, shard: ShardId, ciphertext: bytes) -> None:
        """Carry a sealed call to a shard; whoever pays is not who speaks.

        In maintenance too: only the shard can see which call it is, and lets
        those through by which funds leave.
        """
        ensure_signed(ctx.origin)
        self._require_born(ctx, shard)
        if not 0 < len(ciphertext) <= MAX_CIPHERTEXT:
            raise CiphertextSizeError(
                "no sealed call has this size",
                got=f"{len(ciphertext)} B",
                expected=f"1 … {MAX_CIPHERTEXT} B",
            )
        ctx.emit(Invoked(shard=shard, envelope=sha256(ciphertext)))

    @call(weight=300)
    def shield_funds(
        self,
        ctx: Context,
        *,
        shard: ShardId,
        beneficiary: AccountId,
        amount: Amount,
    ) -> None:
        """Move funds to the shard's vault, for a beneficiary inside the shard."""
        source = ensure_signed(ctx.origin)
        schedule = self._require_born(ctx, shard)
        if schedule.status.mode == "maintenance":
            raise ShardMaintenanceError(
                "shard is in maintenance: funds only leave it",
                got=shard,
                hint="Try again later",
            )
        if amount == 0:
            raise NothingShieldedError("nothing to shield", got=0, expected="≥ 1")
        self._vault.move(ctx, source, vault_account(shard), amount)
        ctx.emit(
            FundsShielded(
                shard=shard, source=source, beneficiary=beneficiary, amount=amount
            )
        )

    @call(weight=200)
    def touch_shard(
        self, ctx: Context, *, shard: ShardId, signing_key: AccountId
    ) -> None:
        """Say that an instance is alive; changes nothing else.

        Its operator says so; the instance must be eligible for an admissible
        generation. It is told by an event; there is no table that fills up.
        """
        operator = ensure_signed(ctx.origin)
        record = self.instances.instance(ctx, shard, signing_key)
        if record.operator != operator:
            raise OperatorRefusedError(
                "instance belongs to another account",
                got=operator,
                expected=record.operator,
            )
        status = self.schedule_of(ctx, shard).status
        entries = self.admissible(ctx, shard)
        entry = next(
            (e for e in entries if record.fingerprint in e.config.code.values()),
            entries[0],
        )
        require_eligible(record, entry, status, height=ctx.block.height)
        ctx.emit(ShardTouched(shard=shard, signing_key=signing_key))

    def _require_born(self, ctx: Context, shard: ShardId) -> Schedule:
        """The schedule, if the shard had keys when this block began.

        A call in the very block of the birth would stand before the first block
        that the shard executes, and be skipped (invariant 2): it is refused.

        Raises:
            UnknownShardError: No such shard.
            ShardNotBornError: No keys when this block began.
        """
        schedule = self.schedule_of(ctx, shard)
        birth = self.epochs.find(ctx, (shard, Epoch(0)))
        if birth is None or ctx.block.height < birth.valid_from:
            raise ShardNotBornError(
                "shard had no keys when this block began", got=shard
            )
        return schedule
