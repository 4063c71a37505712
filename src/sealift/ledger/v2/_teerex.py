"""`teerex` of version 2: lapsed instances are forgotten by rule."""

from sealift.base import AccountId, Height, Message, ShardId, decode, encode
from sealift.frame import Context, Root, call, ensure_root, ensure_signed
from sealift.ledger._errors import (
    LongestAgeError,
    NotRegisteredError,
    OperatorRefusedError,
    RegistryQueueError,
)
from sealift.ledger._teerex import RECORD_WEIGHT, Teerex
from sealift.ledger._teerex_storage import EnclaveUnregistered, TeerexGenesis
from sealift.protocol import EnclaveRecord, RegistrationStatement

from ._aging import (
    FIRST_LONGEST_AGE,
    FORGOTTEN_PER_BLOCK,
    LEAST_LONGEST_AGE,
    AgingStorage,
    Binding,
    EnclaveForgotten,
    LongestAgeLowered,
    Waiting,
)


class _Registry(Message, kw_only=True):
    """What the registry had before the migration."""

    instances: int
    members: int


class ForgettingTeerex(AgingStorage, Teerex):
    """Version 1's registry, which forgets instances that can never count again.

    Storage version 2 adds the queue (:class:`AgingStorage`). Every registered
    instance has one place in it. Its turn comes when ``longest_age`` blocks are over:
    if its attestation is younger, or a generation of its shard accepts older ones, it
    goes to the end; else it is forgotten. So it is forgotten by about twice
    ``longest_age`` after its last attestation, and never before once.
    """

    name = "teerex"
    storage_version = 2
    events = (*Teerex.events, EnclaveForgotten, LongestAgeLowered)
    errors = (*Teerex.errors, LongestAgeError)

    def genesis(self, ctx: Context, config: TeerexGenesis) -> None:
        """Remember roots, window and the longest age."""
        super().genesis(ctx, config)
        self.longest_age.put(ctx, FIRST_LONGEST_AGE)

    def on_initialize(self, ctx: Context) -> None:
        """Forget challenges as before, and instances: a few places of the queue."""
        super().on_initialize(ctx)
        longest = self.longest_age.get(ctx)
        first, end = self.queue_first.get(ctx), self.queue_end.get(ctx)
        accepted: dict[ShardId, int] = {}
        looked_at = 0
        while first < end and looked_at < FORGOTTEN_PER_BLOCK:
            place = self.queue.get(ctx, first)
            if place.since + longest >= ctx.block.height:
                break
            self.queue.delete(ctx, first)
            self.places.delete(ctx, place.signing_key)
            self._look_at(ctx, place.signing_key, longest, accepted)
            first += 1
            looked_at += 1
        if looked_at:
            self.queue_first.put(ctx, first)

    def longest(self, ctx: Context) -> int:
        """The oldest attestation that a new generation may accept, in blocks."""
        return self.longest_age.get(ctx)

    @call(weight=100)
    def set_longest_age(self, ctx: Context, *, blocks: int) -> None:
        """Lower the oldest attestation that new generations may accept.

        Never raised: what was forgotten by the lower one would count again.
        """
        ensure_root(ctx.origin)
        known = self.longest_age.get(ctx)
        if not LEAST_LONGEST_AGE <= blocks < known:
            raise LongestAgeError(
                "longest age is not lower, or below what the chain remembers",
                got=blocks,
                expected=f"{LEAST_LONGEST_AGE} … {known - 1}",
            )
        self.longest_age.put(ctx, blocks)
        ctx.emit(LongestAgeLowered(blocks=blocks))

    @call(weight=100)
    def unregister_enclave(self, ctx: Context, *, signing_key: AccountId) -> None:
        """Take an instance off the registry: its operator may, and root.

        One that was forgotten too: then nothing is left of it.
        """
        binding = self.bindings.find(ctx, signing_key)
        if binding is None:
            super().unregister_enclave(ctx, signing_key=signing_key)
            return
        if type(ctx.origin) is not Root:
            account = ensure_signed(ctx.origin)
            if binding.operator != account:
                raise OperatorRefusedError(
                    "instance belongs to another account",
                    got=account,
                    expected=binding.operator,
                )
        self.bindings.delete(ctx, signing_key)
        ctx.emit(EnclaveUnregistered(signing_key=signing_key))

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        """Give every instance its place in the queue, by its last attestation."""
        del from_version  # 1: there is no other
        self.longest_age.put(ctx, FIRST_LONGEST_AGE)
        found: list[tuple[Height, AccountId]] = []
        for signing_key, record in self.enclaves.items(ctx):
            ctx.charge(RECORD_WEIGHT)
            found.append((record.attested_at, signing_key))
        for number, (attested_at, signing_key) in enumerate(sorted(found)):
            place = Waiting(signing_key=signing_key, since=attested_at)
            self.queue.put(ctx, number, place)
            self.places.put(ctx, signing_key, number)
        self.queue_end.put(ctx, len(found))

    def pre_upgrade(self, ctx: Context) -> bytes:
        """Count what is registered."""
        return encode(self._counted(ctx))

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        """Nothing left the registry, and everybody in it has a place of its own."""
        counted = self._counted(ctx)
        queued = {place.signing_key: number for number, place in self.queue.items(ctx)}
        whole = (
            counted == decode(_Registry, before)
            and queued == dict(self.places.items(ctx))
            and len(queued) == counted.instances == self.queue_end.get(ctx)
            and all(self.enclaves.contains(ctx, key) for key in queued)
        )
        if not whole:
            raise RegistryQueueError(
                "queue and registry differ",
                got=f"{len(queued)} places",
                expected=f"{counted.instances} instances",
            )

    def _counted(self, ctx: Context) -> _Registry:
        return _Registry(
            instances=len(ctx.storage.items(self.enclaves.prefix)),
            members=len(ctx.storage.items(self.members.prefix)),
        )

    def _put(self, ctx: Context, record: EnclaveRecord) -> None:
        super()._put(ctx, record)
        signing_key = record.statement.signing_key
        self.bindings.delete(ctx, signing_key)
        if not self.places.contains(ctx, signing_key):
            self._queue(ctx, signing_key, since=record.attested_at)

    def _queue(self, ctx: Context, signing_key: AccountId, *, since: Height) -> None:
        end = self.queue_end.get(ctx)
        self.queue.put(ctx, end, Waiting(signing_key=signing_key, since=since))
        self.places.put(ctx, signing_key, end)
        self.queue_end.put(ctx, end + 1)

    def _look_at(
        self,
        ctx: Context,
        signing_key: AccountId,
        longest: int,
        accepted: dict[ShardId, int],
    ) -> None:
        """The turn of one instance, which has no place any more.

        1. It was unregistered: nothing is left to do.
        2. It was attested anew: it waits from then on.
        3. A generation of the shard still accepts it: it waits from now on.
        4. None ever will: it is forgotten.
        """
        record, height = self.enclaves.find(ctx, signing_key), ctx.block.height
        if record is None:  # 1
            return
        age = height - record.attested_at
        if age <= longest:  # 2
            self._queue(ctx, signing_key, since=record.attested_at)
            return
        shard = record.statement.shard
        if shard not in accepted:
            schedule = self._shards.schedule_of(ctx, shard)
            accepted[shard] = max(
                entry.config.attestation.max_age_blocks for entry in schedule.entries
            )
        if age <= accepted[shard]:  # 3
            self._queue(ctx, signing_key, since=Height(height))
            return
        self.enclaves.delete(ctx, signing_key)  # 4
        self.members.delete(ctx, (shard, signing_key))
        self.bindings.put(
            ctx, signing_key, Binding(shard=shard, operator=record.operator)
        )
        ctx.emit(EnclaveForgotten(shard=shard, signing_key=signing_key))

    def _verify_speaker(
        self,
        ctx: Context,
        statement: RegistrationStatement,
        signature: bytes,
        known: EnclaveRecord | None,
        operator: AccountId,
    ) -> None:
        super()._verify_speaker(ctx, statement, signature, known, operator)
        binding = self.bindings.find(ctx, statement.signing_key)
        if binding is None:
            return
        if binding.operator != operator:
            raise OperatorRefusedError(
                "instance was registered by another account",
                got=operator,
                expected=binding.operator,
            )
        if binding.shard != statement.shard:
            raise NotRegisteredError(
                "signing key was registered for another shard",
                got=statement.shard,
                expected=binding.shard,
            )

    def _has_provider(self, ctx: Context, shard: ShardId, key: AccountId) -> bool:
        if super()._has_provider(ctx, shard, key):
            return True
        binding = self.bindings.find(ctx, key)
        return binding is not None and binding.shard == shard
