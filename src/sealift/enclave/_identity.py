"""Who this instance is: registrations and RA-TLS certificates."""

from sealift.attestation import TlsKey, make_session_certificate
from sealift.base import AccountId, Bytes32, Digest
from sealift.crypto import sha256
from sealift.protocol import RegistrationStatement, SessionBinding
from sealift.protocol.ecall import RaDump, Registration

from ._shard import Shard


def register(
    shard: Shard,
    *,
    operator: AccountId,
    tls_key: Digest | None = None,
    challenge: Bytes32 | None = None,
    provider: AccountId | None = None,
) -> Registration:
    """A statement over this instance's keys, signed by it and quoted.

    It names the relay's head as the newest block it has seen.

    Raises:
        HaltedError: The chain has forked.
        PlatformRefusedError: The platform makes no quote.
    """
    shard.check_going()
    head = shard.relay.head
    statement = RegistrationStatement(
        chain_id=shard.chain_id,
        shard=shard.shard,
        operator=operator,
        signing_key=shard.keys.signing_key,
        tls_key=sha256(shard.keys.tls_public) if tls_key is None else tls_key,
        hpke_key=shard.keys.hpke_key,
        block_height=head.height,
        block_hash=head.hash,
        challenge=challenge,
        provider=provider,
    )
    quote = shard.platform.quote(statement.report_data())
    shard.registration = statement.digest()
    return Registration(
        statement=statement, signature=statement.sign(shard.keys.seed), quote=quote
    )


def dump_ra(shard: Shard) -> RaDump:
    """A fresh RA-TLS certificate over the registered TLS key, to look at.

    Raises:
        PlatformRefusedError: The platform makes no quote.
    """
    binding = SessionBinding(
        role="provider",
        chain_id=shard.chain_id,
        shard=shard.shard,
        signing_key=shard.keys.signing_key,
        hpke_key=shard.keys.hpke_key,
    )
    certificate = make_session_certificate(
        key=TlsKey(secret=shard.keys.tls_secret, public=shard.keys.tls_public),
        nonce=shard.entropy(32),
        binding=binding.digest(),
        quote=shard.platform.quote,
    )
    return RaDump(certificate=certificate)
