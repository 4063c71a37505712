"""A specimen that goes on: its chain, its workers, and code of today beside them."""

import datetime as dt
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sealift.attestation import TrustAnchor
from sealift.base import ChainId, Height, ShardId, decode, encode
from sealift.bundle import Bundle, encode_bundle, parse_bundle, verify_bundle
from sealift.cli._application import (
    Trust,
    application_metadata,
    build_application,
    example,
    read_application,
    sign_bundle,
)
from sealift.cli._demo_stage import BuiltBundle, Stage
from sealift.crypto import system_entropy
from sealift.enclave import Enclave, PlatformClient
from sealift.frame import Runtime
from sealift.insecure_sim import SimIntel, SimMachine, SimPlatform
from sealift.node import SoloHome
from sealift.protocol.ecall import MAX_FRAME_BYTES, Refused, Reply
from sealift.testing.specimens import LaterClock, whole_bundle
from sealift.transport.keys import read_account_key

ACCOUNTS = ("authority", "carrier", "old", "old-2", "new", "new-2")


@dataclass(frozen=True)
class Specimen:
    """What a release left, in a folder of the test's own."""

    folder: Path

    @classmethod
    def copy(cls, source: Path, folder: Path) -> Self:
        shutil.copytree(source, folder)
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o600)  # keys want it, and git does not keep it
        return cls(folder)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was known when it was made."""
        return json.loads((self.folder / "specimen.json").read_text())

    @cached_property
    def bundle(self) -> Bundle:
        """Its bundle, whole."""
        return parse_bundle(whole_bundle(self.folder))

    @property
    def shard(self) -> ShardId:
        return ShardId(bytes.fromhex(self.facts["shard"]))

    @property
    def chain(self) -> Path:
        return self.folder / "chain"

    def worker(self, name: str) -> Path:
        return self.folder / f"worker-{name}"

    def machine(self, name: str) -> SimMachine:
        return SimMachine(
            SimIntel(self.folder / "insecure-sim"), name, entropy=system_entropy
        )

    def clock(self) -> LaterClock:
        """The chain's time goes on from its last block."""
        return LaterClock(self.facts["time"])

    def stage(self) -> Stage:
        """The demo's stage with the old bundle, and today's of the next version."""
        keys = SoloHome(self.chain)
        old = self.folder / "old.bundle"
        old.write_bytes(encode_bundle(self.bundle))
        signed = verify_bundle(self.bundle).sigstruct
        return Stage(
            folder=self.folder,
            trust_root=keys.read_trust_root(),
            old=BuiltBundle(
                path=old,
                fingerprint=signed.mrenclave,
                mr_signer=signed.mrsigner,
                isv_prod_id=signed.isv_prod_id,
                isv_svn=signed.isv_svn,
                metadata=self.bundle.files["metadata.bin"],
            ),
            new=self.next_version(),
            shard=self.shard,
            genesis=(self.worker("old") / "genesis.bin").read_bytes(),
            keys={name: read_account_key(keys.account_key(name)) for name in ACCOUNTS},
            vendor=(self.folder / "vendor.pem").read_bytes(),
        )

    def next_version(self) -> BuiltBundle:
        """Version 2 of the application, by today's code, for the specimen's chain."""
        anchor = TrustAnchor(
            root_der=SimIntel(self.folder / "insecure-sim").root_der,
            kind="insecure-sim",
        )
        trust = Trust(l1=SoloHome(self.chain).read_trust_root(), roots=(anchor,))
        source = example("auction") / "v2"
        vendor = (self.folder / "vendor.pem").read_bytes()
        bundle = sign_bundle(
            build_application(source, trust), vendor, date=dt.date(2026, 1, 1)
        )
        path = self.folder / "new.bundle"
        path.write_bytes(encode_bundle(bundle))
        signed = verify_bundle(bundle).sigstruct
        return BuiltBundle(
            path=path,
            fingerprint=signed.mrenclave,
            mr_signer=signed.mrsigner,
            isv_prod_id=signed.isv_prod_id,
            isv_svn=signed.isv_svn,
            metadata=application_metadata(source, read_application(source).runtime),
        )

    def enclave(self, machine: str, runtime: Runtime) -> "OldIdentity":
        """Today's enclave code under the specimen's measured identity."""
        return OldIdentity(self, machine, runtime)


class OldIdentity:
    """Today's code with the old MRENCLAVE: it has the keys to the old seals.

    No machine would ever run it so. It is how formats are held apart from
    measurements: what a release sealed for itself, a later one's code reads.
    """

    def __init__(self, specimen: Specimen, machine: str, runtime: Runtime) -> None:
        verified = verify_bundle(specimen.bundle)
        fused = specimen.machine(machine)
        identity = fused.einit(verified.measurement, specimen.bundle.sigstruct)
        platform = SimPlatform(fused)
        self.enclave = Enclave(
            manifest=specimen.bundle.manifest,
            platform=PlatformClient(
                lambda payload: encode(platform.answer(identity, payload))
            ),
            entropy=system_entropy,
            runtime=runtime,
        )

    def ask(self, request: Any) -> Any:
        """A reply, or a refusal."""
        raw = self.enclave.handle(encode(request))
        return decode(Reply, raw, limit=MAX_FRAME_BYTES)

    def call(self, request: Any) -> Any:
        """A reply that is no refusal."""
        reply = self.ask(request)
        assert not isinstance(reply, Refused), reply
        return reply


def head_of(chain: Path, application: Any) -> tuple[ChainId, Height, bytes]:
    """A chain's name, height and app hash, as today's node opens it."""
    opened = SoloHome(chain).open_chain(application)
    try:
        tip = opened.chain.tip
        return opened.genesis.chain_id, tip.height, tip.app_hash
    finally:
        opened.close()
