"""What was seen of a run, in order, for the explorer's model to follow.

A trace is JSON: ``{"seed", "params", "events"}``; every event has ``what`` and the
fields that :mod:`tests.explorer` maps to moves. It tells of L1 and of what workers
say of their enclaves; nothing of it is secret.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sealift.attestation import ReportBody, parse_quote
from sealift.base import AccountId, Fingerprint, decode
from sealift.protocol import (
    Confirmation,
    EffectsFact,
    HandoverCertificate,
    HoldKeysStatement,
    PublishKeyStatement,
    RegistrationStatement,
    StageKeysStatement,
    TransactionBody,
)
from sealift.transport.files import write_durably

from ._demo_load import ChainScan

FORMAT: Final = 1
_SCHEDULE: Final = "enclave_bridge.submit_order"
#: Acts that carry the statement of an instance, and how their arguments are read.
_STATEMENTS: Final[Mapping[str, tuple[str, type[tuple[Any, ...]]]]] = {
    "enclave_bridge.confirm": (
        "confirm",
        tuple[Confirmation, bytes, tuple[EffectsFact, ...]],
    ),
    "enclave_bridge.post_certificate": (
        "certificate",
        tuple[HandoverCertificate, bytes],
    ),
    "enclave_bridge.stage_keys": ("stage", tuple[StageKeysStatement, bytes]),
    "enclave_bridge.hold_keys": ("hold", tuple[HoldKeysStatement, bytes]),
    "enclave_bridge.publish_key": ("publish", tuple[PublishKeyStatement, bytes]),
    "teerex.register_sgx_enclave": (
        "register",
        tuple[RegistrationStatement, bytes, bytes, str],
    ),
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

    #: Which enclave has which code.
    codes: Mapping[Fingerprint, str]
    trace: Trace
    _keys: dict[AccountId, str]
    _acts: list[list[object]]

    def begin(self, trace: Trace, codes: Mapping[Fingerprint, str]) -> None:
        """Note blocks from now on, the first one included."""
        self.trace, self.codes, self._keys, self._acts = trace, codes, {}, []

    def seen(self, height: int, body: TransactionBody) -> None:
        """An act of L1 that took effect, by the enclave that signed it."""
        del height
        if body.call == _SCHEDULE:
            self._acts.append(["schedule", "authority"])
        if body.call not in _STATEMENTS:
            return
        what, form = _STATEMENTS[body.call]
        said, *more = decode(form, body.args)
        if what == "register":
            report = parse_quote(more[1]).report
            if isinstance(report, ReportBody):
                name = self.codes.get(report.mr_enclave, "somebody")
                self._keys[said.signing_key] = name
        act: list[object] = [what, self._keys.get(said.signing_key, "somebody")]
        if what == "confirm":
            act += [int(said.first), int(said.last), int(said.generation)]
        elif what == "certificate":
            act += [int(said.height)]
        self._acts.append(act)

    async def _read(self, height: int) -> None:
        self._acts = []
        await super()._read(height)
        self.trace.note("block", height=height, acts=self._acts)
