"""Encoding and signing transactions, for clients, workers and tests."""

from functools import cache

from sealift.base import AccountId, ChainId, Height, Nonce, encode
from sealift.crypto import account_of
from sealift.frame import Runtime, RuntimeCall, RuntimeMetadata
from sealift.protocol import Transaction, TransactionBody

from ._runtime import RefusingVerifier
from ._versions import NEWEST_RUNTIME, RUNTIME_VERSIONS


@cache
def _runtime() -> Runtime:
    return RUNTIME_VERSIONS[NEWEST_RUNTIME].compose(RefusingVerifier()).runtime


def ledger_metadata() -> RuntimeMetadata:
    """Calls, storage, events and errors of L1, for whoever encodes or reads.

    Those of the newest version of the runtime: it encodes the calls of earlier ones
    as they do. A chain that has not come so far refuses its new calls by name.
    """
    return _runtime().metadata()


def ledger_call(name: str, /, **arguments: object) -> RuntimeCall:
    """A call of L1 from typed arguments.

    Raises:
        UnknownCallError: No such call.
        CallArgumentsError: Arguments that the call does not take.
    """
    return _runtime().encode_call(name, **arguments)


def transaction(
    secret: bytes,
    *,
    chain_id: ChainId,
    nonce: Nonce,
    valid_until: Height,
    call: RuntimeCall,
) -> bytes:
    """A signed transaction, as it stands in a block.

    Args:
        secret: The account's 32-byte seed.
        chain_id: The chain it is for.
        nonce: The account's next nonce.
        valid_until: The last block it may stand in.
        call: As :func:`ledger_call` makes it.
    """
    body = TransactionBody(
        chain_id=chain_id,
        signer=AccountId(account_of(secret)),
        nonce=nonce,
        call=call.name,
        args=call.args,
        valid_until=valid_until,
    )
    return encode(Transaction(body=body, signature=body.sign(secret)))
