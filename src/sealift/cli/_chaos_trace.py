"""What was seen of a run, in order, for the explorer's model to follow.

A trace is JSON: ``{"seed", "params", "events"}``; every event has ``what`` and the
fields that :mod:`tests.explorer` maps to moves. It tells of L1 and of what workers
say of their enclaves; nothing of it is secret.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sealift.base import AccountId, decode
from sealift.protocol import (
    Confirmation,
    EffectsFact,
    HandoverCertificate,
    TransactionBody,
)
from sealift.transport.files import write_durably

from ._demo_load import ChainScan

FORMAT: Final = 1
_ACTS: Final = {
    "enclave_bridge.submit_order": "schedule",
    "enclave_bridge.confirm": "confirm",
    "enclave_bridge.post_certificate": "certificate",
    "enclave_bridge.stage_keys": "stage",
    "enclave_bridge.hold_keys": "hold",
    "enclave_bridge.publish_key": "publish",
    "teerex.register_sgx_enclave": "register",
}


@dataclass(slots=True)
class Trace:
    """Events in the order in which they were seen."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, what: str, **fields: object) -> None:
        """Something was seen; a status that says nothing new is left out."""
        event = {"what": what, **fields}
        if what == "status":
            for before in reversed(self.events):
                if before["what"] in {"ready", "killed"}:
                    break
                if before["what"] == what and before["who"] == fields["who"]:
                    if before == event:
                        return
                    break
        self.events.append(event)

    def write(self, path: Path, *, seed: int, params: dict[str, int]) -> None:
        """Write it down, one event a line.

        Raises:
            FileError: It cannot be written.
        """
        events = ",\n".join(json.dumps(event) for event in self.events)
        head = json.dumps({"format": FORMAT, "seed": seed, "params": params})
        text = f'{head[:-1]}, "events": [\n{events}\n]}}\n'
        write_durably(path, text.encode())


class ActScan(ChainScan):
    """Reads L1, and notes each block with the acts that concern the shard."""

    #: Whose account is which worker's.
    names: dict[AccountId, str]
    trace: Trace
    _acts: list[list[object]]

    def begin(self, trace: Trace, names: dict[AccountId, str]) -> None:
        """Note blocks from now on."""
        self.trace, self.names, self._acts = trace, names, []

    def seen(self, height: int, body: TransactionBody) -> None:
        """An act of L1 that took effect."""
        del height
        what = _ACTS.get(body.call)
        if what is None:
            return
        act: list[object] = [what, self.names.get(body.signer, "somebody")]
        if what == "confirm":
            said, _, _ = decode(
                tuple[Confirmation, bytes, tuple[EffectsFact, ...]], body.args
            )
            act += [int(said.first), int(said.last), int(said.generation)]
        elif what == "certificate":
            certificate, _ = decode(tuple[HandoverCertificate, bytes], body.args)
            act += [int(certificate.height)]
        self._acts.append(act)

    async def _read(self, height: int) -> None:
        self._acts = []
        await super()._read(height)
        self.trace.note("block", height=height, acts=self._acts)
