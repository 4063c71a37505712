"""The key store: an instance's own keys and the shard's, sealed to MRENCLAVE.

CPUSVN, ISV_SVN and key id stand beside the sealed bytes, so that a store made
on an older level opens again; a newer one is refused by the platform. A store
that does not open is an error and nothing takes its place.
"""

from typing import Annotated, Literal

import msgspec

from sealift.base import (
    AccountId,
    Bytes32,
    ChainId,
    Digest,
    Epoch,
    Message,
    SealiftError,
    ShardId,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import (
    Entropy,
    HpkeSuite,
    account_of,
    hkdf,
    hpke_public,
    open_sealed,
    seal,
)
from sealift.protocol import EpochKeys
from sealift.protocol.platform import CpuSvn, IsvNumber

from ._errors import (
    KeyStoreForeignError,
    KeyStoreLevelError,
    KeyStoreUnreadableError,
    NoKeysError,
    SealingLevelError,
)
from ._platform import PlatformPort

_LABEL = b"sealift/key-store/v1\x00"
_SECRET = 32


class SealedKeyStore(Message, kw_only=True):
    """A key store at rest; everything but ``sealed`` is public and bound to it."""

    format: Literal[1] = 1
    cpu_svn: CpuSvn
    isv_svn: IsvNumber
    key_id: Bytes32
    sealed: bytes


class KeyStore(Message, kw_only=True):
    """All secrets of one instance for one shard.

    ``seed`` is the signing key's and the root of what the instance derives;
    ``candidate`` are keys of epoch 0 that this instance made and that L1 has
    not been seen to accept. ``staged`` are keys of the next epoch, which has not
    been seen to act; ``demand`` is the rotation that they were made here for
    (:func:`sealift.protocol.rotation_demand`), ``None`` if another made them;
    ``registration`` what was quoted last before.
    """

    chain_id: ChainId
    shard: ShardId
    seed: Bytes32
    hpke_seed: Bytes32
    tls_public: Annotated[bytes, msgspec.Meta(max_length=512)]
    tls_secret: Annotated[bytes, msgspec.Meta(max_length=512)]
    epochs: tuple[EpochKeys, ...] = ()
    candidate: EpochKeys | None = None
    staged: EpochKeys | None = None
    demand: Digest | None = None
    registration: Digest | None = None

    def __repr__(self) -> str:
        return f"KeyStore(shard={self.shard.hex()}, {len(self.epochs)} epochs)"

    @property
    def signing_key(self) -> AccountId:
        """The instance's identity on L1."""
        return account_of(self.seed)

    @property
    def hpke_key(self) -> bytes:
        """The public key that key packages are sealed to."""
        return hpke_public(HpkeSuite.MLKEM768_X25519, self.hpke_seed)

    @property
    def shielding_secrets(self) -> dict[int, bytes]:
        """Secret shielding key of every epoch held."""
        return {keys.epoch: keys.shielding_secret for keys in self.epochs}

    def derived(self, purpose: str) -> bytes:
        """A key of this instance alone, for authenticating what it stores."""
        return hkdf(self.seed, info=b"sealift/instance/v1\x00" + purpose.encode())

    def epoch(self, epoch: int) -> EpochKeys:
        """The shard's keys of one epoch.

        Raises:
            NoKeysError: They are not held.
        """
        for keys in self.epochs:
            if keys.epoch == epoch:
                return keys
        raise NoKeysError(
            "keys of this epoch are not held",
            got=epoch,
            expected=f"one of {[keys.epoch for keys in self.epochs]}",
        )


def new_epoch_keys(epoch: Epoch, entropy: Entropy) -> EpochKeys:
    """Fresh secrets for one epoch of a shard."""
    return EpochKeys(
        epoch=epoch,
        shielding_secret=entropy(_SECRET),
        state_key=entropy(_SECRET),
        root_key=entropy(_SECRET),
    )


def seal_key_store(
    store: KeyStore, platform: PlatformPort, *, entropy: Entropy
) -> bytes:
    """Seal under the platform's current level.

    Raises:
        PlatformRefusedError: It gives no key.
    """
    key_id = entropy(_SECRET)
    got = platform.seal_key(_LABEL + key_id, cpu_svn=None, isv_svn=None)
    blob = SealedKeyStore(
        cpu_svn=got.cpu_svn, isv_svn=got.isv_svn, key_id=key_id, sealed=b""
    )
    context = _context(blob, store.chain_id, store.shard)
    key = hkdf(got.key, info=_LABEL + key_id)
    sealed = seal(key, encode(store), context=context, entropy=entropy)
    return encode(msgspec.structs.replace(blob, sealed=sealed))


def open_key_store(
    blob: bytes, platform: PlatformPort, *, chain_id: ChainId, shard: ShardId
) -> KeyStore:
    """Open a sealed key store of this code, shard and chain.

    1. The bytes are a sealed store of a known format. 2. The platform gives
    the key of the level it was sealed on: that level or an older one than the
    current. 3. It opens, bound to its header, chain and shard. 4. What is
    inside says the same.

    Raises:
        KeyStoreUnreadableError: 1, 2 or 3; the blob stays where it is.
        KeyStoreLevelError: 2, because the platform has no key of that level; from
            a header that nothing has authenticated.
        KeyStoreForeignError: 4.
    """
    try:
        # 1.
        outer = canonical_decode(SealedKeyStore, blob)
        # 2.
        got = platform.seal_key(
            _LABEL + outer.key_id, cpu_svn=outer.cpu_svn, isv_svn=outer.isv_svn
        )
        # 3.
        key = hkdf(got.key, info=_LABEL + outer.key_id)
        plain = open_sealed(
            key, outer.sealed, context=_context(outer, chain_id, shard), what="it"
        )
        store = decode(KeyStore, plain)
    except SealingLevelError as error:
        raise KeyStoreLevelError(
            f"the key store does not open ({error.code}: {error})",
            hint="It is kept as it is; nothing was overwritten.",
        ) from error
    except SealiftError as error:
        raise KeyStoreUnreadableError(
            f"the key store does not open ({error.code}: {error})",
            hint="It is kept as it is; nothing was overwritten.",
        ) from error
    # 4.
    if (store.chain_id, store.shard) != (chain_id, shard):
        raise KeyStoreForeignError(
            "key store of another shard", got=store.shard, expected=shard.hex()
        )
    return store


def _context(blob: SealedKeyStore, chain_id: ChainId, shard: ShardId) -> bytes:
    return _LABEL + encode(
        (blob.format, blob.cpu_svn, blob.isv_svn, blob.key_id, chain_id, shard)
    )
