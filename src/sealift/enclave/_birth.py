"""The birth of a shard: keys and state from its genesis (DESIGN §4.4)."""

import msgspec

from sealift.base import Height, InvariantError, SealiftError, UnixSeconds
from sealift.crypto import HpkeSuite, hpke_public, sha256
from sealift.frame import PageStore
from sealift.protocol import (
    EpochKeys,
    KeyEpochRecord,
    PublishKeyStatement,
    Schedule,
    key_commitment,
)
from sealift.protocol.ecall import BornKeys, Genesis, KeysPublished, StateReply

from ._errors import (
    GenesisMismatchError,
    NoKeysError,
    NotNamedError,
    ShardBornError,
    StateExistsError,
    StateRootMismatchError,
)
from ._judge import prune
from ._keystore import KeyStore, new_epoch_keys, seal_key_store
from ._shard import Birth, Shard
from ._state import GENESIS_HEIGHT, ShardState, keyed_root, page_key
from ._view import BIRTH_EPOCH


def born_keys(shard: Shard, request: BornKeys) -> KeysPublished:
    """Make the keys of epoch 0 and the genesis state; L1 accepts one such set.

    1. This instance holds no keys of the shard. 2. The schedule is proven and
    names this code for the newest block. 3. Epoch 0 is proven absent after it.
    4. The blob is the shard's genesis. Asked again, the same keys are published
    again.

    Raises:
        ShardBornError: 1 or 3.
        NotNamedError: 2.
        GenesisMismatchError: 4.
        GenesisError: The runtime does not take the blob.
    """
    shard.check_going()
    # 1.
    if shard.keys.epochs or shard.view.first_keys is not None:
        raise ShardBornError("the shard has keys already", hint="Request them.")
    # 2.
    schedule = shard.view.schedule
    if schedule is None or not shard.is_mine(shard.view.height):
        raise NotNamedError(
            "the schedule does not name this code",
            got=shard.me.mrenclave,
            expected=f"the generation of block {shard.view.height}",
        )
    # 3.
    if shard.view.unborn_at != shard.view.height:
        raise ShardBornError(
            "that the shard has no keys is not proven",
            got=f"absent after block {shard.view.unborn_at}",
            expected=f"absent after block {shard.view.height}",
        )
    # 4.
    keys = shard.keys.candidate or new_epoch_keys(BIRTH_EPOCH, shard.entropy)
    birth = _birth(shard, schedule, keys, request.blob)
    store = msgspec.structs.replace(shard.keys, candidate=keys)
    sealed = seal_key_store(store, shard.platform, entropy=shard.entropy)
    shard.keys, shard.birth = store, birth
    return KeysPublished(
        statement=birth.statement,
        signature=birth.statement.sign(store.seed),
        key_store=sealed,
    )


def load_genesis(shard: Shard, request: Genesis) -> StateReply:
    """Make the genesis state again with the shard's keys, after a restart.

    The state stands where L1 published the keys: it is of use as long as no
    block was confirmed on top of it, or for executing from there on. Before
    schedule and publication were followed (again), the blob waits for them.

    Raises:
        StateExistsError: There is a state.
        NoKeysError: Neither keys nor candidates are held.
        GenesisMismatchError: Not the genesis that L1 has the digest of.
        StateRootMismatchError: The keys are not those of the genesis root.
    """
    shard.check_going()
    if shard.state is not None:
        raise StateExistsError("there is a state", got=shard.state.height)
    birth = _rebuilt(shard, request.blob)
    shard.genesis, shard.birth = request.blob, birth
    settle_birth(shard)
    prune(shard)
    return state_reply(shard)


def _rebuilt(shard: Shard, blob: bytes) -> Birth | None:
    """The genesis state, or ``None`` while the chain was not followed so far."""
    keys = shard.keys.candidate
    if shard.keys.epochs:
        keys = shard.keys.epoch(BIRTH_EPOCH)
    if keys is None:
        raise NoKeysError("no keys to make the genesis state with")
    if shard.view.schedule is None:
        return None
    birth = _birth(shard, shard.view.schedule, keys, blob)
    record = shard.view.first_keys
    if record is not None and record.statement.genesis_root != birth.state.root:
        raise StateRootMismatchError(
            "genesis leads to another root than the published one",
            got=birth.state.root,
            expected=record.statement.genesis_root.hex(),
        )
    return birth


def state_reply(shard: Shard) -> StateReply:
    """Where the state stands, and what an import still lacks."""
    state, importing = shard.state, shard.importing
    return StateReply(
        height=None if state is None else state.height,
        root=None if state is None else state.root,
        missing=None if importing is None else importing.missing,
    )


def settle_candidate(keys: KeyStore, record: KeyEpochRecord | None) -> KeyStore:
    """What L1's record of epoch 0 makes of candidate keys.

    The record's own keys become the shard's; any others never were.
    """
    if record is None or keys.candidate is None:
        return keys
    if keys.epochs or not matches(keys.candidate, record.statement):
        return msgspec.structs.replace(keys, candidate=None)
    return msgspec.structs.replace(keys, candidate=None, epochs=(keys.candidate,))


def settle_birth(shard: Shard) -> None:
    """If L1 shows who gave birth: my genesis becomes the state, or is dropped."""
    record = shard.view.first_keys
    if record is None:
        return
    shard.keys = settle_candidate(shard.keys, record)
    birth, shard.birth = shard.birth, None
    blob, shard.genesis = shard.genesis, None
    if shard.state is not None or not shard.keys.epochs:
        return
    if birth is None and blob is not None:
        try:
            birth = _rebuilt(shard, blob)
        except InvariantError:
            raise
        except SealiftError:
            # The host hears the reason when it asks for the genesis again; a
            # bad blob is no reason not to follow the chain.
            return
    if birth is None or birth.state.root != record.statement.genesis_root:
        return
    birth.state.height = birth_height(record)
    shard.state = birth.state


def birth_height(record: KeyEpochRecord) -> Height:
    """The block that published the first keys: the genesis state stands there."""
    return Height(max(record.valid_from - 1, GENESIS_HEIGHT))


def matches(keys: EpochKeys, statement: PublishKeyStatement) -> bool:
    """Whether a publication is of exactly these keys."""
    public = hpke_public(HpkeSuite.X25519, keys.shielding_secret)
    return (
        statement.epoch == keys.epoch
        and statement.shielding_key == public
        and statement.state_key_commitment == key_commitment("state", keys.state_key)
        and statement.root_key_commitment == key_commitment("root", keys.root_key)
    )


def _birth(shard: Shard, schedule: Schedule, keys: EpochKeys, blob: bytes) -> Birth:
    digest = sha256(blob)
    if digest != schedule.rules.genesis:
        raise GenesisMismatchError(
            "not the shard's genesis", got=digest, expected=schedule.rules.genesis.hex()
        )
    store = PageStore(bits=schedule.rules.page_bits, key=page_key(keys))
    shard.executor.apply_genesis(
        store, blob, height=GENESIS_HEIGHT, time=UnixSeconds(0)
    )
    root = keyed_root(keys, shard.shard, GENESIS_HEIGHT, store.root())
    statement = PublishKeyStatement(
        chain_id=shard.chain_id,
        shard=shard.shard,
        epoch=BIRTH_EPOCH,
        signing_key=shard.keys.signing_key,
        shielding_key=hpke_public(HpkeSuite.X25519, keys.shielding_secret),
        state_key_commitment=key_commitment("state", keys.state_key),
        root_key_commitment=key_commitment("root", keys.root_key),
        genesis_root=root,
    )
    state = ShardState(
        store=store,
        height=GENESIS_HEIGHT,
        root=root,
        root_height=GENESIS_HEIGHT,
        epoch=BIRTH_EPOCH,
        time=UnixSeconds(0),
        trail=[],
        trusted=True,
    )
    return Birth(statement=statement, state=state)
