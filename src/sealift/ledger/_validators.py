"""`validators`: who orders this chain, as CometBFT counts it.

What a block decides takes effect two heights later (CometBFT v0.38
``state/execution.go updateState``): the updates of block *H* stand in header
*H*+1 as ``next_validators_hash`` and sign from *H*+2 on. After block *H* the
state knows both sets: ``current`` orders *H*+1, ``coming`` orders *H*+2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sealift.base import Height, Message
from sealift.crypto import ANYBODYS_KEYS
from sealift.frame import (
    Context,
    Event,
    Pallet,
    StorageMap,
    StorageValue,
    call,
    ensure_root,
)
from sealift.relay import MAX_TOTAL_POWER, Validator, ValidatorSet

from ._errors import (
    LastValidatorError,
    LedgerGenesisError,
    NoChangeError,
    UnknownValidatorError,
    ValidatorChangeError,
    ValidatorKeyError,
    ValidatorLimitError,
    ValidatorPowerError,
    ValidatorsFixedError,
)

#: Of the power that a block finds, so much (one part of it) may change in it.
CHANGE_PART: Final = 3
#: Below this, the power of several validators could never change again.
LEAST_POWER_OF_SEVERAL: Final = CHANGE_PART
_KEY_BYTES: Final = 32
#: ``set_validator`` is at most so far from taking effect.
_EFFECT_DELAY: Final = 2
_NOBODY: Final = ValidatorSet(validators=())


class MisbehaviorKind(IntEnum):
    """``MisbehaviorType`` of ABCI."""

    UNKNOWN = 0
    DUPLICATE_VOTE = 1
    LIGHT_CLIENT_ATTACK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehavior:
    """Evidence in a block: the engine verified it, validators agreed on it.

    Attributes:
        kind: What the validator did.
        address: Who.
        height: At which height.
        power: Voting power that it had there.
    """

    kind: MisbehaviorKind
    address: bytes
    height: Height
    power: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What the engine says of its validators with a block; part of the block.

    Attributes:
        absent: Addresses of those that did not sign the block before.
        misbehavior: Evidence that the block carries.
    """

    absent: tuple[bytes, ...] = ()
    misbehavior: tuple[Misbehavior, ...] = ()


#: All signed, none misbehaved: what an engine of one key always says.
NO_REPORT: Final = EngineReport()


class ValidatorsGenesis(Message, kw_only=True):
    """The first set, and how it may change.

    ``max_validators`` 0: never. ``expel_equivocators``: by rule, 0 or 1.
    """

    validators: ValidatorSet
    max_validators: int
    expel_equivocators: int


class Absence(Message, kw_only=True):
    """A validator that did not sign the last ``blocks`` blocks."""

    address: bytes
    blocks: int


class Absences(Message, kw_only=True):
    """Who did not sign lately; by address."""

    entries: tuple[Absence, ...]


class Offence(Message, kw_only=True):
    """The last misbehavior of a validator, and how often there was any."""

    kind: int
    height: Height
    power: int
    recorded_at: Height
    count: int


class ValidatorChanged(Event, kw_only=True):
    """From block ``effective`` on this key has this power; 0: it is no validator."""

    public_key: bytes
    power: int
    effective: Height


class ValidatorMisbehaved(Event, kw_only=True):
    """A block carried evidence against a validator."""

    address: bytes
    kind: int
    height: Height
    power: int


class Validators(Pallet):
    """The validator set, changed by root and by evidence.

    Guarantees that CometBFT accepts every change (no empty set, no total above
    ``MAX_TOTAL_POWER``, Ed25519 keys only, no removal of who is not there), and
    that calls of one block change at most a third of the power that it found:
    whoever trusts the set before such a block can verify a header after it by
    more than 4/9 of the power it trusts (skipping verification wants 1/3), and
    a set whose members all ran still has more than two thirds that do.
    """

    name = "validators"
    events = (ValidatorChanged, ValidatorMisbehaved)
    errors = (
        ValidatorsFixedError,
        ValidatorKeyError,
        ValidatorPowerError,
        ValidatorLimitError,
        ValidatorChangeError,
        LastValidatorError,
        UnknownValidatorError,
    )

    current = StorageValue("current", ValidatorSet, default=_NOBODY)
    coming = StorageValue("coming", ValidatorSet, default=_NOBODY)
    max_validators = StorageValue("max_validators", int, default=0)
    expel_equivocators = StorageValue("expel_equivocators", int, default=1)
    absences = StorageValue("absences", Absences, default=Absences(entries=()))
    offences = StorageMap("offences", key=bytes, value=Offence)

    def genesis(self, ctx: Context, config: ValidatorsGenesis) -> None:
        """Begin with the engine's set."""
        first, most = config.validators, config.max_validators
        if most:
            _require_changeable(first, most)
        self.current.put(ctx, first)
        self.coming.put(ctx, first)
        self.max_validators.put(ctx, most)
        self.expel_equivocators.put(ctx, config.expel_equivocators)

    def on_initialize(self, ctx: Context) -> None:
        """Move on: what the block before decided orders the next one."""
        coming = self.coming.get(ctx)
        if coming != self.current.get(ctx):
            self.current.put(ctx, coming)

    def take_report(self, ctx: Context, report: EngineReport) -> None:
        """Note who was absent and who misbehaved, before the block's calls.

        A validator that voted twice loses its power, if the genesis says so,
        unless nobody else has any.
        """
        self._note_absent(ctx, report.absent)
        for one in report.misbehavior:
            self._note_misbehavior(ctx, one)

    def updates(self, ctx: Context) -> tuple[Validator, ...]:
        """What this block changes, for the engine: the new powers; 0 removes."""
        before, after = self.current.get(ctx), self.coming.get(ctx)
        if before == after:
            return ()
        old, new = _powers(before), _powers(after)
        return tuple(
            Validator(public_key=key, power=new.get(key, 0))
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        )

    @call(weight=500)
    def set_validator(self, ctx: Context, *, public_key: bytes, power: int) -> None:
        """Give a key voting power; 0 takes it away. Root only."""
        ensure_root(ctx.origin)
        most = self.max_validators.get(ctx)
        if not most:
            raise ValidatorsFixedError(
                "the validators of this chain are fixed",
                got="max_validators 0 in its genesis",
                hint="The embedded engine has one key; a network sets max_validators",
            )
        if len(public_key) != _KEY_BYTES:
            raise ValidatorKeyError(
                "not an Ed25519 public key",
                got=f"{len(public_key)} B",
                expected=f"{_KEY_BYTES} B",
            )
        if public_key in ANYBODYS_KEYS:
            raise ValidatorKeyError("a key that everybody can sign with")
        if not 0 <= power <= MAX_TOTAL_POWER:
            raise ValidatorPowerError(
                "voting power out of bounds",
                got=power,
                expected=f"0 … {MAX_TOTAL_POWER}",
            )
        coming = self.coming.get(ctx)
        after = _with_power(coming, public_key, power)
        _require_sound(after, most)
        _require_gradual(self.current.get(ctx), after)
        self._put(ctx, after, public_key, power)

    def _put(self, ctx: Context, after: ValidatorSet, key: bytes, power: int) -> None:
        self.coming.put(ctx, after)
        effective = Height(ctx.block.height + _EFFECT_DELAY)
        ctx.emit(ValidatorChanged(public_key=key, power=power, effective=effective))

    def _note_absent(self, ctx: Context, absent: Sequence[bytes]) -> None:
        before = self.absences.get(ctx)
        if not absent and not before.entries:
            return
        known = {one.address: one.blocks for one in before.entries}
        entries = tuple(
            Absence(address=address, blocks=known.get(address, 0) + 1)
            for address in sorted(set(absent))
        )
        self.absences.put(ctx, Absences(entries=entries))

    def _note_misbehavior(self, ctx: Context, evidence: Misbehavior) -> None:
        address = evidence.address
        before = self.offences.find(ctx, address)
        self.offences.put(
            ctx,
            address,
            Offence(
                kind=evidence.kind,
                height=evidence.height,
                power=evidence.power,
                recorded_at=ctx.block.height,
                count=1 if before is None else before.count + 1,
            ),
        )
        ctx.emit(
            ValidatorMisbehaved(
                address=address,
                kind=evidence.kind,
                height=evidence.height,
                power=evidence.power,
            )
        )
        if (
            evidence.kind == MisbehaviorKind.DUPLICATE_VOTE
            and self.expel_equivocators.get(ctx)
        ):
            self._expel(ctx, address)

    def _expel(self, ctx: Context, address: bytes) -> None:
        coming = self.coming.get(ctx).validators
        gone = [one for one in coming if one.address == address]
        rest = tuple(one for one in coming if one.address != address)
        if gone and rest:
            self._put(ctx, ValidatorSet(validators=rest), gone[0].public_key, 0)


def _powers(known: ValidatorSet) -> dict[bytes, int]:
    return {one.public_key: one.power for one in known.validators}


def _with_power(known: ValidatorSet, key: bytes, power: int) -> ValidatorSet:
    powers = _powers(known)
    if not power and key not in powers:
        raise UnknownValidatorError("no such validator", got=key)
    if powers.get(key) == power:
        raise NoChangeError("the validator has this power", got=power)
    powers[key] = power
    return ValidatorSet.sorted(
        tuple(
            Validator(public_key=one, power=its) for one, its in powers.items() if its
        )
    )


def _require_sound(after: ValidatorSet, most: int) -> None:
    """Return if a set can order a chain and can be changed again."""
    count, total = len(after.validators), after.total_power
    if not count:
        raise LastValidatorError("nobody would order this chain")
    if count > most:
        raise ValidatorLimitError("too many validators", got=count, expected=most)
    if total > MAX_TOTAL_POWER:
        raise ValidatorPowerError(
            "too much voting power", got=total, expected=f"≤ {MAX_TOTAL_POWER}"
        )
    if count > 1 and total < LEAST_POWER_OF_SEVERAL:
        raise ValidatorPowerError(
            "too little voting power to change it ever again",
            got=total,
            expected=f"≥ {LEAST_POWER_OF_SEVERAL}",
            hint="Raise the power of the others first",
        )


def _require_gradual(before: ValidatorSet, after: ValidatorSet) -> None:
    """Return if at most a third of the power that the block found changes.

    Where one validator is all of both sets, its power means nothing.
    """
    old, new = _powers(before), _powers(after)
    if old.keys() == new.keys() and len(new) == 1:
        return
    changed = sum(
        abs(new.get(key, 0) - old.get(key, 0)) for key in old.keys() | new.keys()
    )
    if changed * CHANGE_PART > before.total_power:
        raise ValidatorChangeError(
            "too much voting power changes in one block",
            got=changed,
            expected=f"≤ {before.total_power // CHANGE_PART}",
            hint="Go in steps, block by block",
        )


def _require_changeable(first: ValidatorSet, most: int) -> None:
    try:
        _require_sound(first, most)
    except (LastValidatorError, ValidatorLimitError, ValidatorPowerError) as error:
        raise LedgerGenesisError(f"a set that could not change ({error})") from error
