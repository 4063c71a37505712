"""Rehearsals in a world: asked for, and brought to L1."""

from sealift.protocol.ecall import Rehearse, Rehearsed

from ._chain import Sent
from ._worker import WorldWorker


def rehearse(worker: WorldWorker) -> Rehearsed:
    """Have an enclave rehearse; its word, which L1 does not have yet.

    Raises:
        RefusedError: The enclave refuses.
        WorldError: It has no verdict.
    """
    return worker.call(Rehearse(), Rehearsed)


def post_rehearsal(worker: WorldWorker, *, milliseconds: int = 1) -> Sent:
    """Have an enclave rehearse, and send its word; it stands in the next block.

    Args:
        worker: Whose operator brings it.
        milliseconds: The host's word, a power of two.

    Raises:
        RefusedError: The enclave refuses.
        WorldError: There is no verdict.
    """
    said = rehearse(worker)
    worker.act("send rehearsal")
    return worker.send(
        "enclave_bridge.post_rehearsal",
        statement=said.statement,
        signature=said.signature,
        milliseconds=milliseconds,
    )
