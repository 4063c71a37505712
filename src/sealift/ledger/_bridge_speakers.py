"""`enclave_bridge`: what instances state, and which of them may state it."""

from typing import TypeAlias

from sealift.base import AccountId, ShardId
from sealift.crypto import SignatureInvalidError
from sealift.frame import Context
from sealift.protocol import (
    Confirmation,
    EffectsStatement,
    EnclaveRecord,
    Frontier,
    HandoverCertificate,
    HoldKeysStatement,
    PublishKeyStatement,
    RehearsalStatement,
    Schedule,
    ScheduleEntry,
    ShardStatus,
    StageKeysStatement,
)

from ._bridge_orders import OrderKeeper
from ._eligibility import is_eligible, require_eligible
from ._errors import ShardNotBornError, StatementForeignError, StatementSignatureError
from ._ports import Instances, Vault

#: What an instance signs with its own key.
Stated: TypeAlias = (
    Confirmation
    | EffectsStatement
    | HandoverCertificate
    | HoldKeysStatement
    | PublishKeyStatement
    | RehearsalStatement
    | StageKeysStatement
)


class SpeakerKeeper(OrderKeeper):
    """Judges who speaks for a shard; anybody's account may carry what is said.

    Args:
        vault: See :class:`sealift.ledger._bridge_schedule.ScheduleKeeper`.
    """

    #: The registry; given after construction, for it reads schedules itself.
    instances: Instances

    def __init__(self, *, vault: Vault) -> None:
        super().__init__(vault=vault)

    def _schedule_for(self, ctx: Context, statement: Stated) -> Schedule:
        """The schedule of the shard that a statement of this chain is about.

        Raises:
            StatementForeignError: Another chain's.
            UnknownShardError: No such shard.
        """
        if statement.chain_id != ctx.block.chain_id:
            raise StatementForeignError(
                "statement is for another chain",
                got=statement.chain_id,
                expected=ctx.block.chain_id,
            )
        return self.schedule_of(ctx, statement.shard)

    def _frontier(self, ctx: Context, shard: ShardId) -> Frontier:
        """The frontier of a born shard.

        Raises:
            ShardNotBornError: It has no keys yet.
        """
        frontier = self.frontiers.find(ctx, shard)
        if frontier is None:
            raise ShardNotBornError(
                "shard has no keys yet",
                got=shard,
                hint="An instance must publish key epoch 0 first",
            )
        return frontier

    def _verify_signer(
        self,
        ctx: Context,
        schedule: Schedule,
        statement: Stated,
        signature: bytes,
        entry: ScheduleEntry,
        *,
        status: ShardStatus | None = None,
    ) -> EnclaveRecord:
        """The record of an eligible instance that signed the statement.

        Args:
            ctx: The running call.
            schedule: Of the shard.
            statement: What was signed.
            signature: By the signing key that it names.
            entry: The generation for which it must be eligible.
            status: Floors instead of the shard's standing ones.

        Raises:
            StatementSignatureError: Signed by another key.
            NotRegisteredError: No instance of this shard has the key.
            PalletError: Not eligible: see :func:`require_eligible`.
        """
        signing_key: AccountId = statement.signing_key
        try:
            statement.verify(signing_key, signature)
        except SignatureInvalidError as error:
            raise StatementSignatureError(
                "statement is not signed by its signing key", expected=signing_key
            ) from error
        record = self.instances.instance(ctx, schedule.shard, signing_key)
        status = status or schedule.status
        require_eligible(record, entry, status, height=ctx.block.height)
        return record

    def _counts_still(
        self,
        ctx: Context,
        schedule: Schedule,
        entry: ScheduleEntry,
        signing_key: AccountId,
        *,
        status: ShardStatus | None = None,
    ) -> bool:
        """Whether who signed earlier is eligible now."""
        record = self.instances.find_instance(ctx, schedule.shard, signing_key)
        return record is not None and is_eligible(
            record, entry, status or schedule.status, height=ctx.block.height
        )
