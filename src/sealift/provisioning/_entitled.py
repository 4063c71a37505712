"""Who may hold a shard's keys (DESIGN §4.4, §8): rules over proven records."""

from dataclasses import dataclass

import msgspec

from sealift.attestation import AttestedHeights, VerifiedQuote, judge
from sealift.base import Fingerprint, Height
from sealift.protocol import (
    AttestationPolicy,
    EnclaveRecord,
    EntryStatus,
    Frontier,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardStatus,
    config_at,
)

from ._errors import (
    EarlierGenerationError,
    IsvSvnTooLowError,
    NoticeNotRunError,
    NotScheduledError,
    OperatorNotListedError,
    ProviderNotEntitledError,
    VendorRevokedError,
    WrongVendorError,
)

_DEAD = frozenset({EntryStatus.CANCELLED, EntryStatus.LAPSED, EntryStatus.VOID})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What L1's proven state says about a shard now."""

    schedule: Schedule
    frontier: Frontier
    height: Height

    @property
    def current(self) -> ScheduleEntry:
        """The generation of the frontier."""
        return config_at(self.schedule, self.frontier.confirmed + 1)


def requester_entry(
    standing: Standing, record: EnclaveRecord, *, held_at: Height
) -> ScheduleEntry:
    """The entry by which a requester may receive keys.

    Args:
        standing: Proven.
        record: The requester's registration, proven.
        held_at: Height of the block that holds its challenge.

    Raises:
        NotScheduledError: No live entry names its fingerprint.
        OperatorNotListedError: Those that name it do not name its operator.
        NoticeNotRunError: Only entries whose ``release_from`` is above
            ``held_at`` name it.
        EarlierGenerationError: Only generations before the frontier's name it.
    """
    current = standing.current
    named = [
        entry
        for entry in standing.schedule.entries
        if _names(entry, record.platform, record.fingerprint)
    ]
    # L1 admits an instance by any entry that fits: by a later one too, whose
    # notice has not run, and of more operators than the running one names.
    if named:
        named = _operated(named, record)
    for entry in named:
        if entry.generation == current.generation:
            return entry
    # Active ones are ahead as well while the frontier has not reached them.
    ahead = [entry for entry in named if entry.generation > current.generation]
    for entry in ahead:
        if entry.release_from <= held_at:
            return entry
    if ahead:
        raise NoticeNotRunError(
            "the notice of this code has not run",
            got=f"a challenge in block {held_at}",
            expected=f"a block at or above {ahead[0].release_from}",
            hint="Ask again then.",
        )
    if named:
        raise EarlierGenerationError(
            "this code ran an earlier generation",
            got=record.fingerprint,
            expected=f"the code of generation {current.generation} or a later one",
        )
    raise NotScheduledError(
        "the schedule does not name this code",
        got=record.fingerprint,
        expected="the MRENCLAVE of a live entry",
    )


def provider_entries(standing: Standing) -> tuple[ScheduleEntry, ...]:
    """The generations that may give keys: the frontier's, and its predecessor.

    A void predecessor (after a rescue) may not.
    """
    current = standing.current
    if current.predecessor is None:
        return (current,)
    before = standing.schedule.entry(current.predecessor)
    return (current,) if before.status in _DEAD else (current, before)


def provider_entry(standing: Standing, record: EnclaveRecord) -> ScheduleEntry:
    """The entry by which a provider may give keys.

    Raises:
        ProviderNotEntitledError: It is neither of the frontier's generation nor
            of that one's predecessor.
        OperatorNotListedError: Its operator is none of theirs.
    """
    allowed = provider_entries(standing)
    named = [e for e in allowed if _names(e, record.platform, record.fingerprint)]
    if named:
        return _operated(named, record)[0]
    raise ProviderNotEntitledError(
        "the provider's code may not give keys",
        got=record.fingerprint,
        expected="the code of generation "
        + " or ".join(str(entry.generation) for entry in allowed),
    )


def judge_instance(
    quote: VerifiedQuote,
    record: EnclaveRecord,
    entry: ScheduleEntry,
    standing: Standing,
) -> None:
    """Return only if fresh evidence satisfies its own entry's policy and floors.

    Raises:
        NotScheduledError: The quote is of another MRENCLAVE than the record.
        WrongVendorError: The entry names another MRSIGNER or product.
        IsvSvnTooLowError: ISV_SVN below the entry's or the status's floor.
        PolicyRefusedError: The attestation policy refuses, with every rule.
    """
    if quote.mrenclave != record.fingerprint or quote.mrsigner != record.mr_signer:
        raise NotScheduledError(
            "the quote is of other code than the registration",
            got=quote.mrenclave,
            expected=record.fingerprint.hex(),
        )
    heights = AttestedHeights(attested_at=record.attested_at, judged_at=standing.height)
    _judge(quote, entry, standing.schedule.status, heights)


def judge_auditee(
    quote: VerifiedQuote,
    entry: ScheduleEntry,
    *,
    platform: str,
    status: ShardStatus,
    height: Height,
) -> None:
    """Return only if former code may be shown the calls of its own range again.

    1. The entry names it on this platform, and its vendor. 2. That vendor's word
    still counts. 3. It meets the entry's policy and every floor that acts **now**:
    code that a floor withdrew as vulnerable is not started for an audit either.

    Args:
        quote: Fresh: made for this audit.
        entry: Of the generation whose range is audited.
        platform: The kind that the quote's root vouches for.
        status: The shard's, as proven now.
        height: The block that the status was proven after.

    Raises:
        NotScheduledError: 1: another MRENCLAVE.
        WrongVendorError: 1: another MRSIGNER or product.
        VendorRevokedError: 2.
        IsvSvnTooLowError: 3.
        PolicyRefusedError: 3, with every rule.
    """
    # 1.
    wanted = entry.config.code.get(platform)
    if entry.status in _DEAD or quote.mrenclave != wanted:
        raise NotScheduledError(
            f"not the code of generation {entry.generation}",
            got=quote.mrenclave,
            expected="none on this platform" if wanted is None else wanted.hex(),
        )
    # 2.
    if quote.mrsigner in status.revoked_signers:
        raise VendorRevokedError(
            "code of a vendor whose word counts no more", got=quote.mrsigner
        )
    # 3.
    _judge(quote, entry, status, AttestedHeights(attested_at=height, judged_at=height))


def _judge(
    quote: VerifiedQuote,
    entry: ScheduleEntry,
    status: ShardStatus,
    heights: AttestedHeights,
) -> None:
    """Vendor, ISV_SVN and policy of an entry, narrowed by the floors."""
    config = entry.config
    _check_vendor(quote, config)
    floor = max(config.min_isv_svn, status.min_isv_svn)
    if quote.isv_svn < floor:
        raise IsvSvnTooLowError(
            "ISV_SVN is too low", got=quote.isv_svn, expected=f"≥ {floor}"
        )
    judge(quote, _raised(config.attestation, status), heights=heights)


def _check_vendor(quote: VerifiedQuote, config: ShardConfig) -> None:
    wanted = (
        quote.mrsigner if config.mr_signer is None else config.mr_signer,
        quote.isv_prod_id if config.isv_prod_id is None else config.isv_prod_id,
    )
    if (quote.mrsigner, quote.isv_prod_id) != wanted:
        raise WrongVendorError(
            "code of another vendor or product than the entry names",
            got=f"{quote.mrsigner.hex()} product {quote.isv_prod_id}",
            expected=f"{wanted[0].hex()} product {wanted[1]}",
        )


def _raised(policy: AttestationPolicy, status: ShardStatus) -> AttestationPolicy:
    """The entry's policy, narrowed by the floors that act now."""
    return msgspec.structs.replace(
        policy,
        rejected_advisories=(*policy.rejected_advisories, *status.rejected_advisories),
        min_tcb_evaluation_number=max(
            policy.min_tcb_evaluation_number, status.min_tcb_evaluation_number
        ),
        not_before=max(policy.not_before, status.not_before),
    )


def _operated(
    entries: list[ScheduleEntry], record: EnclaveRecord
) -> list[ScheduleEntry]:
    """Those entries that let the record's operator run their code.

    Raises:
        OperatorNotListedError: None does.
    """
    found = [
        entry
        for entry in entries
        if not entry.config.operators or record.operator in entry.config.operators
    ]
    if not found:
        raise OperatorNotListedError(
            "the account is not among the operators of this code's generation",
            got=record.operator,
        )
    return found


def _names(entry: ScheduleEntry, platform: str, fingerprint: Fingerprint) -> bool:
    return entry.status not in _DEAD and any(
        kind == platform and code == fingerprint
        for kind, code in entry.config.code.items()
    )
