"""Which key epochs an instance may hold, and whether they are L1's (DESIGN §12)."""

from dataclasses import dataclass

from sealift.crypto import HpkeSuite, constant_time_equal, hpke_public
from sealift.protocol import (
    EnclaveRecord,
    EpochKeys,
    EpochKeysPublic,
    KeyEpoch,
    KeyPackage,
    ScheduleEntry,
    StagedEpoch,
    key_commitment,
)

from ._entitled import Standing
from ._errors import (
    AttestedTooEarlyError,
    CommitmentMismatchError,
    NotProvenError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitledEpochs:
    """The epochs that one instance may hold: all that act, perhaps one staged."""

    acting: tuple[KeyEpoch, ...]
    staged: StagedEpoch | None


def epoch_public(keys: EpochKeys) -> EpochKeysPublic:
    """The public side of an epoch's secrets, as it stands in the schedule."""
    return EpochKeysPublic(
        shielding_key=hpke_public(HpkeSuite.X25519, keys.shielding_secret),
        state_key_commitment=key_commitment("state", keys.state_key),
        root_key_commitment=key_commitment("root", keys.root_key),
    )


def entitled_epochs(
    standing: Standing, record: EnclaveRecord, entry: ScheduleEntry
) -> EntitledEpochs:
    """The key epochs that an entitled instance may give or be given.

    1. L1 knows the shard's first epoch. 2. Every acting epoch: the instance was
    attested at or above its ``not_before``. They go together, for without one
    the state can't be followed. 3. The staged epoch: the same, and the
    instance's generation is not below the one that the rotation is for; else it
    is left out.

    Args:
        standing: Proven.
        record: The instance's registration, proven.
        entry: The entry by which it takes part.

    Raises:
        NotProvenError: 1.
        AttestedTooEarlyError: 2.
    """
    schedule = standing.schedule
    # 1.
    if not schedule.epochs:
        raise NotProvenError("L1 knows no key epoch of the shard")
    # 2.
    floor = max(epoch.not_before for epoch in schedule.epochs)
    if record.attested_at < floor:
        raise AttestedTooEarlyError(
            "attested before the keys of this shard were made anew",
            got=f"at {record.attested_at}",
            expected=f"≥ {floor}",
            hint="Attest again.",
        )
    # 3.
    staged = schedule.staged
    if staged is not None and not (
        record.attested_at >= staged.due.not_before
        and entry.generation >= staged.due.generation
    ):
        staged = None
    return EntitledEpochs(acting=schedule.epochs, staged=staged)


def check_commitments(package: KeyPackage, entitled: EntitledEpochs) -> None:
    """Return only if the package holds exactly the epochs that L1 knows.

    1. Epochs 0, 1, … in order. 2. None that acts is missing. 3. None that L1
    does not know; the staged one may be there or not. 4. Every secret is the
    one that L1 has the commitment to.

    Raises:
        CommitmentMismatchError: 1, 2 or 4.
        NotProvenError: 3.
    """
    # 1. and 2.
    got = [keys.epoch for keys in package.epochs]
    if got != list(range(len(got))) or len(got) < len(entitled.acting):
        raise CommitmentMismatchError(
            "epochs are not all there, in order",
            got=got,
            expected=f"0 … {len(entitled.acting) - 1}",
        )
    # 3.
    known = [epoch.keys for epoch in entitled.acting]
    if entitled.staged is not None:
        known.append(entitled.staged.keys)
    if len(got) > len(known):
        raise NotProvenError(
            "L1 knows no such key epoch of this provider",
            got=got[-1],
            expected=f"0 … {len(known) - 1}",
        )
    # 4.
    for keys, published in zip(package.epochs, known, strict=False):
        _check_keys(keys, published)


def _check_keys(keys: EpochKeys, published: EpochKeysPublic) -> None:
    public = epoch_public(keys)
    pairs = (
        ("shielding key", public.shielding_key, published.shielding_key),
        ("state key", public.state_key_commitment, published.state_key_commitment),
        ("root key", public.root_key_commitment, published.root_key_commitment),
    )
    for name, got, expected in pairs:
        if not constant_time_equal(got, expected):
            raise CommitmentMismatchError(
                f"the {name} of epoch {keys.epoch} is not the published one",
                got=got,
                expected=expected.hex(),
            )
