"""`teerex`: the registry of enclaves, and the ledger's own collateral."""

from typing import ClassVar, Final

import msgspec

from sealift.attestation import (
    AnchorKind,
    AttestationError,
    CollateralMarks,
    verify_not_older,
)
from sealift.base import (
    AccountId,
    Height,
    ShardId,
    UnixSeconds,
)
from sealift.crypto import SignatureInvalidError
from sealift.frame import (
    Context,
    Event,
    PalletError,
    Root,
    call,
    encode_key,
    ensure_signed,
)
from sealift.protocol import (
    CollateralRecord,
    EnclaveRecord,
    RegistrationStatement,
    ScheduleEntry,
)

from ._eligibility import require_eligible, unbroken_since
from ._errors import (
    ChallengeUsedError,
    CollateralRootError,
    CollateralTeeError,
    NotRegisteredError,
    OperatorRefusedError,
    QuoteBindingError,
    RegistrationBlockError,
    RegistrationChainError,
    RegistrationReplayedError,
    StatementSignatureError,
    SvnTooLowError,
    TooManyInstancesError,
    UnknownFmspcError,
    UnknownProviderError,
    UrlError,
    WrongFingerprintForShardError,
    WrongVendorError,
)
from ._ports import BlockHashes, Evidence, QuoteVerifier, Shards
from ._teerex_storage import (
    CollateralRegistered,
    EnclaveAnnounced,
    EnclaveRegistered,
    EnclaveUnregistered,
    TeerexGenesis,
    TeerexStorage,
)

#: Longest address of an instance.
MAX_URL = 256
#: A challenge that was named is refused for so many quote windows. A session that
#: waits for its registration is over long before, and whoever names it again finds
#: no provider that holds it.
CHALLENGE_WINDOWS: Final = 10
#: Weight of looking at one instance's record.
RECORD_WEIGHT = 10
_SCHEMES = ("http://", "https://", "ws://", "wss://")

#: Which name in ``ShardConfig.code`` evidence under a kind of root speaks for.
PLATFORM_OF: Final[dict[AnchorKind, str]] = {
    "intel": "gramine-sgx",
    "insecure-sim": "insecure-sim",
}


class Teerex(TeerexStorage):
    """Registers enclaves whose quotes the ledger verified itself.

    Registering, joining and announcing never touch a schedule: this pallet
    only reads it.

    Args:
        verifier: Judges quotes and collateral.
        hashes: Hashes of recent blocks.
        shards: The schedules.
    """

    name = "teerex"
    events: ClassVar[tuple[type[Event], ...]] = (
        EnclaveRegistered,
        EnclaveAnnounced,
        EnclaveUnregistered,
        CollateralRegistered,
    )
    errors: ClassVar[tuple[type[PalletError], ...]] = (
        RegistrationChainError,
        RegistrationBlockError,
        RegistrationReplayedError,
        QuoteBindingError,
        ChallengeUsedError,
        UnknownProviderError,
        WrongFingerprintForShardError,
        SvnTooLowError,
        OperatorRefusedError,
        TooManyInstancesError,
        NotRegisteredError,
        UrlError,
        UnknownFmspcError,
        CollateralRootError,
        CollateralTeeError,
        StatementSignatureError,
        WrongVendorError,
    )

    def __init__(
        self, *, verifier: QuoteVerifier, hashes: BlockHashes, shards: Shards
    ) -> None:
        self._verifier = verifier
        self._hashes = hashes
        self._shards = shards

    def genesis(self, ctx: Context, config: TeerexGenesis) -> None:
        """Remember roots and window."""
        self.anchors.put(ctx, config.anchors)
        self.quote_window.put(ctx, config.quote_window)

    def on_initialize(self, ctx: Context) -> None:
        """Forget the challenges that one earlier block named, and no others'.

        So the work of a block is at most that of registering them.
        """
        kept = CHALLENGE_WINDOWS * self.quote_window.get(ctx)
        if ctx.block.height <= kept:
            return
        height = Height(ctx.block.height - kept)
        named = self.challenges_at.get(ctx, height)
        if named:
            for challenge in named:
                self.challenges.delete(ctx, challenge)
            self.challenges_at.delete(ctx, height)

    def instance(
        self, ctx: Context, shard: ShardId, signing_key: AccountId
    ) -> EnclaveRecord:
        """The record of an instance of this shard.

        Raises:
            NotRegisteredError: There is none.
        """
        record = self.find_instance(ctx, shard, signing_key)
        if record is None:
            raise NotRegisteredError(
                "no instance of this shard has this signing key", got=signing_key
            )
        return record

    def find_instance(
        self, ctx: Context, shard: ShardId, signing_key: AccountId
    ) -> EnclaveRecord | None:
        """The record of an instance of this shard, if there is one."""
        record = self.enclaves.find(ctx, signing_key)
        if record is None or record.statement.shard != shard:
            return None
        return record

    def all_instances(self, ctx: Context, shard: ShardId) -> tuple[EnclaveRecord, ...]:
        """Records of all instances of a shard, live or not, by signing key.

        Charges weight for each.
        """
        found = []
        for signing_key in self._members(ctx, shard):
            ctx.charge(RECORD_WEIGHT)
            found.append(self.enclaves.get(ctx, signing_key))
        return tuple(found)

    @call(weight=15_000)
    def register_sgx_enclave(
        self,
        ctx: Context,
        *,
        statement: RegistrationStatement,
        signature: bytes,
        quote: bytes,
        url: str = "",
    ) -> None:
        """Register an instance, or attest it again.

        1. The statement is for this chain, names a recent block of it, and is
           newer than what is known of this key.
        2. Its signing key signed it, for this account, and for no other before.
        3. Its challenge serves no other registration; its provider exists.
        4. The ledger has collateral for the quote's FMSPC.
        5. The quote is genuine now, under the ledger's collateral and roots.
        6. The quote was made over this statement.
        7. An admissible entry names this code, and accepts it: vendor, security
           version, operators, policy, floors.
        8. Fewer instances are live than the entry allows.

        It has been attested without a break since its former attestation's
        beginning, if that had not lapsed; else since this block.
        """
        operator = ensure_signed(ctx.origin)
        self._verify_recent(ctx, statement)  # 1
        known = self.enclaves.find(ctx, statement.signing_key)
        self._verify_newer(statement, known)
        self._verify_speaker(ctx, statement, signature, known, operator)  # 2
        _verify_url(url)
        self._verify_session(ctx, statement)  # 3
        evidence = self._verify_quote(ctx, quote)  # 4, 5
        if evidence.report_data != statement.report_data():  # 6
            raise QuoteBindingError(
                "quote was made over something else",
                got=evidence.report_data,
                expected=statement.report_data(),
            )
        record = EnclaveRecord(
            statement=statement,
            operator=operator,
            platform=PLATFORM_OF[evidence.anchor],
            fingerprint=evidence.mrenclave,
            mr_signer=evidence.mrsigner,
            isv_prod_id=evidence.isv_prod_id,
            isv_svn=evidence.isv_svn,
            platform_id=evidence.platform_id,
            tcb_status=evidence.status,
            advisories=evidence.advisories,
            tcb_evaluation_number=evidence.tcb_evaluation_data_number,
            registered_at=known.registered_at if known else ctx.block.height,
            attested_at=ctx.block.height,
            url=url or (known.url if known else ""),
        )
        entry = self._admit(ctx, record)  # 7, 8
        since = unbroken_since(record, known, entry, height=record.attested_at)
        self._put(ctx, msgspec.structs.replace(record, unbroken_since=since))
        ctx.emit(
            EnclaveRegistered(
                shard=statement.shard,
                signing_key=statement.signing_key,
                fingerprint=record.fingerprint,
                generation=entry.generation,
                attested_at=record.attested_at,
            )
        )

    @call(weight=100)
    def announce(self, ctx: Context, *, signing_key: AccountId, url: str) -> None:
        """Say where an instance can be reached."""
        record = self._own(ctx, signing_key)
        _verify_url(url)
        self.enclaves.put(ctx, signing_key, msgspec.structs.replace(record, url=url))
        ctx.emit(EnclaveAnnounced(signing_key=signing_key, url=url))

    @call(weight=100)
    def unregister_enclave(self, ctx: Context, *, signing_key: AccountId) -> None:
        """Take an instance off the registry: its operator may, and root."""
        record = self._own(ctx, signing_key, or_root=True)
        self.enclaves.delete(ctx, signing_key)
        self.members.delete(ctx, (record.statement.shard, signing_key))
        ctx.emit(EnclaveUnregistered(signing_key=signing_key))

    @call(weight=20_000)
    def register_collateral(self, ctx: Context, *, collateral: bytes) -> None:
        """Give the ledger newer collateral; anybody may, for it proves itself.

        1. It is genuine now, under one of the roots, and for SGX.
        2. It does not stand under a weaker root than what is known.
        3. Under the same root no number and no date falls.
        """
        ensure_signed(ctx.origin)
        verdict = self._verifier.verify_collateral(  # 1
            collateral, anchors=self.anchors.get(ctx), now=ctx.block.time
        )
        if verdict.tee != "sgx":
            raise CollateralTeeError(
                "collateral of another TEE", got=verdict.tee, expected="sgx"
            )
        known = self.collateral.find(ctx, verdict.fmspc)
        if known is not None:
            root = self.collateral_anchors.get(ctx, verdict.fmspc)
            if root == verdict.anchor:
                verify_not_older(verdict.marks, than=_marks(known))  # 3
            elif root == "intel":  # 2
                raise CollateralRootError(
                    "this family's collateral stands under Intel's root",
                    got=verdict.anchor,
                    expected=root,
                )
        marks = verdict.marks
        self.collateral_anchors.put(ctx, verdict.fmspc, verdict.anchor)
        self.collateral.put(
            ctx,
            verdict.fmspc,
            CollateralRecord(
                collateral=collateral,
                recorded_at=ctx.block.height,
                tcb_issued_at=marks.tcb_info_issued,
                qe_issued_at=marks.qe_identity_issued,
                tcb_evaluation_number=marks.tcb_evaluation_data_number,
                qe_evaluation_number=marks.qe_evaluation_data_number,
                pck_crl_number=marks.pck_crl_number,
                root_crl_number=marks.root_crl_number,
            ),
        )
        ctx.emit(
            CollateralRegistered(
                fmspc=verdict.fmspc,
                tcb_evaluation_number=marks.tcb_evaluation_data_number,
            )
        )

    def _verify_recent(self, ctx: Context, statement: RegistrationStatement) -> None:
        if statement.chain_id != ctx.block.chain_id:
            raise RegistrationChainError(
                "statement is for another chain",
                got=statement.chain_id,
                expected=ctx.block.chain_id,
            )
        height = ctx.block.height
        oldest = height - self.quote_window.get(ctx)
        if not oldest <= statement.block_height < height:
            raise RegistrationBlockError(
                "statement names a block that is not recent",
                got=statement.block_height,
                expected=f"{max(oldest, 1)} … {height - 1}",
                hint="Quote again over a recent block",
            )
        known = self._hashes.block_hash(ctx, statement.block_height)
        if known != statement.block_hash:
            raise RegistrationBlockError(
                "statement names a block of another chain",
                got=statement.block_hash,
                expected=known,
            )

    @staticmethod
    def _verify_newer(
        statement: RegistrationStatement, known: EnclaveRecord | None
    ) -> None:
        if known is None:
            return
        if statement.block_height <= known.statement.block_height:
            raise RegistrationReplayedError(
                "statement is not newer than the registered one",
                got=statement.block_height,
                expected=f"> {known.statement.block_height}",
                hint="Quote again over a recent block",
            )

    def _verify_speaker(
        self,
        ctx: Context,  # noqa: ARG002 - later versions look further
        statement: RegistrationStatement,
        signature: bytes,
        known: EnclaveRecord | None,
        operator: AccountId,
    ) -> None:
        try:
            statement.verify(statement.signing_key, signature)
        except SignatureInvalidError as error:
            raise StatementSignatureError(
                "statement is not signed by its signing key",
                expected=statement.signing_key,
            ) from error
        if statement.operator != operator:
            raise OperatorRefusedError(
                "statement was made for another operator",
                got=operator,
                expected=statement.operator,
            )
        if known is None:
            return
        if known.operator != operator:
            raise OperatorRefusedError(
                "instance is registered by another account",
                got=operator,
                expected=known.operator,
            )
        if known.statement.shard != statement.shard:
            raise NotRegisteredError(
                "signing key is registered for another shard",
                got=statement.shard,
                expected=known.statement.shard,
            )

    def _verify_session(self, ctx: Context, statement: RegistrationStatement) -> None:
        if (statement.challenge is None) != (statement.provider is None):
            raise UnknownProviderError(
                "statement names a challenge without a provider, or the reverse"
            )
        if statement.challenge is None or statement.provider is None:
            return
        if self.challenges.contains(ctx, statement.challenge):
            raise ChallengeUsedError(
                "challenge was named by a registration before",
                got=statement.challenge,
                hint="Ask the provider for a new session",
            )
        if not self._has_provider(ctx, statement.shard, statement.provider):
            raise UnknownProviderError(
                "statement names a provider that this shard does not have",
                got=statement.provider,
            )

    def _has_provider(self, ctx: Context, shard: ShardId, key: AccountId) -> bool:
        """Whether the shard has an instance of this key, live or not."""
        return self.find_instance(ctx, shard, key) is not None

    def _verify_quote(self, ctx: Context, quote: bytes) -> Evidence:
        fmspc = self._verifier.quote_fmspc(quote)
        collateral = self.collateral.find(ctx, fmspc)
        if collateral is None:
            raise UnknownFmspcError(
                f"no collateral for FMSPC {fmspc.hex()}",
                hint="Send teerex.register_collateral for it first",
            )
        return self._verifier.verify_quote(
            quote,
            collateral=collateral.collateral,
            anchors=self.anchors.get(ctx),
            now=ctx.block.time,
        )

    def _admit(self, ctx: Context, record: EnclaveRecord) -> ScheduleEntry:
        """The first admissible entry that accepts the instance."""
        shard = record.statement.shard
        status = self._shards.schedule_of(ctx, shard).status
        refusal: PalletError | AttestationError = WrongFingerprintForShardError(
            "no active or pending generation of the shard runs this code",
            got=record.fingerprint,
        )
        for entry in self._shards.admissible(ctx, shard):
            if record.fingerprint not in entry.config.code.values():
                continue
            try:
                require_eligible(record, entry, status, height=ctx.block.height)
                self._require_room(ctx, record, entry)
            except (PalletError, AttestationError) as error:
                refusal = error
                continue
            return entry
        raise refusal

    def _require_room(
        self, ctx: Context, record: EnclaveRecord, entry: ScheduleEntry
    ) -> None:
        """Count live instances by the age of their attestation, others expire."""
        most = entry.config.max_instances
        if not most:
            return
        shard = record.statement.shard
        codes = set(entry.config.code.values())
        oldest = ctx.block.height - entry.config.attestation.max_age_blocks
        live = 0
        for other in self.all_instances(ctx, shard):
            live += (
                other.statement.signing_key != record.statement.signing_key
                and other.fingerprint in codes
                and other.attested_at >= oldest
            )
        if live >= most:
            raise TooManyInstancesError(
                f"generation {entry.generation} has all its instances",
                got=live,
                expected=f"< {most}",
            )

    def _members(self, ctx: Context, shard: ShardId) -> list[AccountId]:
        """Signing keys of all instances of a shard, live or not, in order."""
        prefix = self.members.prefix + encode_key((shard,))
        start = len(prefix) + 2
        return [AccountId(key[start:]) for key, _ in ctx.storage.items(prefix)]

    def _put(self, ctx: Context, record: EnclaveRecord) -> None:
        statement = record.statement
        self.enclaves.put(ctx, statement.signing_key, record)
        self.members.put(ctx, (statement.shard, statement.signing_key), value=True)
        if statement.challenge is not None:
            self.challenges.put(ctx, statement.challenge, statement.signing_key)
            height = Height(ctx.block.height)
            named = (*self.challenges_at.get(ctx, height), statement.challenge)
            self.challenges_at.put(ctx, height, named)

    def _own(
        self, ctx: Context, signing_key: AccountId, *, or_root: bool = False
    ) -> EnclaveRecord:
        is_root = or_root and type(ctx.origin) is Root
        account = None if is_root else ensure_signed(ctx.origin)
        record = self.enclaves.find(ctx, signing_key)
        if record is None:
            raise NotRegisteredError(
                "no instance has this signing key", got=signing_key
            )
        if not is_root and record.operator != account:
            raise OperatorRefusedError(
                "instance belongs to another account",
                got=account,
                expected=record.operator,
            )
        return record


def _verify_url(url: str) -> None:
    if url and (len(url) > MAX_URL or not url.startswith(_SCHEMES)):
        raise UrlError(
            "not an address of a worker",
            got=url[:80],
            expected=f"at most {MAX_URL} characters, beginning with one of {_SCHEMES}",
        )


def _marks(known: CollateralRecord) -> CollateralMarks:
    return CollateralMarks(
        tcb_info_issued=UnixSeconds(known.tcb_issued_at),
        qe_identity_issued=UnixSeconds(known.qe_issued_at),
        tcb_evaluation_data_number=known.tcb_evaluation_number,
        qe_evaluation_data_number=known.qe_evaluation_number,
        pck_crl_number=known.pck_crl_number,
        root_crl_number=known.root_crl_number,
    )
