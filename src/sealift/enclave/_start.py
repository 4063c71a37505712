"""Bringing the enclave up for one shard."""

from typing import Final

from sealift.attestation import generate_tls_key
from sealift.base import Height, ShardId, UnixSeconds, decode
from sealift.bundle import Manifest
from sealift.crypto import Entropy
from sealift.frame import Runtime
from sealift.protocol.ecall import Start, Started
from sealift.protocol.platform import IdentityReply
from sealift.relay import CLOCKLESS_RULES, ChainRelay, LightBlock, TrustRoot
from sealift.stf import Executor

from ._birth import settle_candidate
from ._checkpoint import ResumePoint, open_checkpoint
from ._epochs import settle_epochs
from ._errors import CheckpointForgedError
from ._keystore import KeyStore, open_key_store, seal_key_store
from ._platform import PlatformPort
from ._shard import Shard
from ._view import ChainView

#: The longest jump between two verified headers (DESIGN §5). Measured, as all
#: code is; long, because a quiet laptop must find its chain again.
RELAY_RULES: Final = CLOCKLESS_RULES
_SEED = 32


def trust_root(manifest: Manifest) -> TrustRoot:
    """The L1 block that the bundle was measured with."""
    chain_id, height, header_hash = manifest.l1.values()
    return TrustRoot(chain_id=chain_id, height=height, header_hash=header_hash)


def start(
    request: Start,
    *,
    manifest: Manifest,
    me: IdentityReply,
    platform: PlatformPort,
    entropy: Entropy,
    runtime: Runtime,
) -> tuple[Shard, Started]:
    """Open the key store, or make one; resume the relay, or bootstrap it.

    1. A key store that is offered opens, or nothing starts. 2. A checkpoint
    that is offered is this instance's own. 3. Else the relay starts at the
    measured trust root. The store is sealed again under the current level.

    Raises:
        KeyStoreUnreadableError: 1.
        KeyStoreForeignError: 1.
        CheckpointForgedError: 2, or neither checkpoint nor light block.
        SealiftError: 3, as :meth:`ChainRelay.bootstrap`.
    """
    root = trust_root(manifest)
    # 1.
    if request.key_store is None:
        keys = _new_keys(root, request.shard, entropy)
    else:
        keys = open_key_store(
            request.key_store, platform, chain_id=root.chain_id, shard=request.shard
        )
    # 2. and 3.
    relay, view = _relay(request, root, keys)
    executor = Executor(
        runtime,
        chain_id=root.chain_id,
        shard=request.shard,
        fingerprint=me.mrenclave,
    )
    sealed = seal_key_store(keys, platform, entropy=entropy)
    shard = Shard(
        chain_id=root.chain_id,
        shard=request.shard,
        me=me,
        platform=platform,
        entropy=entropy,
        executor=executor,
        keys=settle_epochs(settle_candidate(keys, view.first_keys), view.schedule),
        relay=relay,
        point=ResumePoint(relay=relay.checkpoint(), view=view),
        view=view,
    )
    started = Started(
        signing_key=keys.signing_key,
        key_store=sealed,
        head=Height(view.height + 1),
    )
    return shard, started


def _new_keys(root: TrustRoot, shard: ShardId, entropy: Entropy) -> KeyStore:
    tls = generate_tls_key(entropy)
    return KeyStore(
        chain_id=root.chain_id,
        shard=shard,
        seed=entropy(_SEED),
        hpke_seed=entropy(_SEED),
        tls_public=tls.public,
        tls_secret=tls.secret,
    )


def _relay(
    request: Start, root: TrustRoot, keys: KeyStore
) -> tuple[ChainRelay, ChainView]:
    if request.checkpoint is not None:
        point = open_checkpoint(keys, request.checkpoint)
        relay = ChainRelay.resume(root, point.relay, rules=RELAY_RULES)
        return relay, point.view
    if request.light_block is None:
        raise CheckpointForgedError(
            "nothing to start the relay from",
            expected=f"a checkpoint, or the light block of height {root.height}",
        )
    light = decode(LightBlock, request.light_block)
    relay = ChainRelay.bootstrap(root, light, rules=RELAY_RULES, now=None)
    view = ChainView(height=Height(root.height - 1), time=UnixSeconds(0))
    return relay, view
