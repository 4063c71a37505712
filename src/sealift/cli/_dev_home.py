"""The scratch folder of ``sealift dev``: a chain, a simulator, keys, a shard's genesis.

Whoever has the folder has all its secrets; nothing in it is for anything but play.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import ChainId, Fingerprint, ShardId, encode
from sealift.bundle import Bundle, encode_bundle, measure
from sealift.client import write_card
from sealift.crypto import Entropy, account_of, rsa_generate
from sealift.frame import RuntimeMetadata
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.ledger import DcapVerifier, LedgerParams, shard_id_of
from sealift.node import (
    LedgerApplication,
    SoloConfig,
    SoloHome,
    init_solo,
    ledger_consensus_params,
)
from sealift.relay import TrustRoot
from sealift.transport.build import write_bundle
from sealift.transport.clock import Clock
from sealift.transport.files import (
    create_durably,
    make_folder,
    read_or_explain,
    write_durably,
    write_private_key,
)
from sealift.transport.keys import read_account_key, write_account_key
from sealift.worker import CONFIG_FILE, TEMPLATE

from ._app_ask import ApplicationError
from ._app_check import metadata_of
from ._app_new import STANDARD
from ._application import Trust, build_application, sign_bundle
from ._cards import card_of_bundle
from ._genesis import FIRST_ACCOUNTS, first_state

CHAIN_ID: Final = ChainId("sealift-dev")
#: Decides what code runs next, and has sudo in the shard.
BOSS: Final = "boss"
#: Users that have tokens in the shard, if it has tokens.
USERS: Final = ("alice", "bob")
#: Two workers are there at most, each with a machine and an account of its own.
SEATS: Final = ("left", "right")
#: Genesis of the application's own pallets, beside sealift.toml.
GENESIS_FILE: Final = "genesis.json"
_TOKENS: Final = 1_000_000
_EXAMPLES: Final = {"str": "hello", "int": "1", "bool": "true"}
_SEED: Final = 32


@dataclass(frozen=True, slots=True)
class DevHome:
    """Where everything lies."""

    root: Path

    @property
    def chain(self) -> Path:
        """The chain's home."""
        return self.root / "chain"

    @property
    def sim(self) -> Path:
        """The simulated Intel."""
        return self.root / "insecure-sim"

    @property
    def card(self) -> Path:
        """What users need; written anew by every upgrade."""
        return self.root / "card.json"

    @property
    def genesis(self) -> Path:
        """The shard's genesis blob."""
        return self.root / "genesis.bin"

    def key(self, name: str) -> Path:
        """An account's key."""
        return self.root / "keys" / f"{name}.json"

    def secret(self, name: str) -> bytes:
        """An account's secret."""
        if name in USERS:
            return read_account_key(self.key(name))
        return read_account_key(SoloHome(self.chain).account_key(name))

    def log(self, name: str) -> Path:
        """What a process writes."""
        return self.root / "logs" / f"{name}.log"

    def worker(self, number: int) -> Path:
        """A worker's home."""
        return self.root / f"worker-{number}"

    def bundle(self, number: int) -> Path:
        """A bundle, as it was built."""
        return self.root / f"{number}.bundle"

    def shard(self) -> ShardId:
        """The shard's id: the boss's first one."""
        return shard_id_of(CHAIN_ID, account_of(self.secret(BOSS)), 0)


class Workshop:
    """Makes what the loop needs: the folder, bundles, workers' homes, the card.

    Args:
        home: An empty folder.
        application: The author's folder.
        clock: For times in certificates and signatures.
        entropy: For keys.
    """

    def __init__(
        self, home: DevHome, application: Path, *, clock: Clock, entropy: Entropy
    ) -> None:
        self.home = home
        self.application = application
        self._clock = clock
        self._entropy = entropy
        self._vendor = rsa_generate()
        self._trust: Trust

    def make(self, *, block_ms: int, port: int) -> None:
        """Make the chain, the simulator and the keys.

        Raises:
            FileError: It cannot be written.
        """
        home = self.home
        make_folder(home.root / "logs")
        make_folder(home.root / "keys", mode=0o700)
        write_private_key(home.root / "vendor.pem", self._vendor)
        intel = SimIntel(home.sim)
        for seat in SEATS:
            SimMachine(intel, seat, entropy=self._entropy)
        for user in USERS:
            write_account_key(home.key(user), self._entropy(_SEED))
        anchor = TrustAnchor(root_der=intel.root_der, kind="insecure-sim")
        root = self._make_chain(anchor, block_ms=block_ms, port=port)
        self._trust = Trust(l1=root, roots=(anchor,))

    def build(self, number: int) -> Bundle:
        """Build and sign what stands in the application's folder now.

        Raises:
            ApplicationError, BuildError, WheelFetchError: Why it cannot be built.
        """
        now = dt.datetime.fromtimestamp(self._clock.now().seconds, dt.UTC)
        bundle = build_application(self.application, self._trust)
        signed = sign_bundle(bundle, self._vendor, date=now.date())
        write_bundle(self.home.bundle(number), encode_bundle(signed))
        return signed

    def write_genesis(self, bundle: Bundle) -> bytes:
        """The shard's first state: tokens of users, the boss's sudo, and genesis.json.

        Raises:
            ApplicationError: genesis.json is no map of pallets.
        """
        names = {pallet.name for pallet in metadata_of(bundle).pallets}
        boss = account_of(self.home.secret(BOSS))
        users = [account_of(self.home.secret(name)) for name in USERS]
        standard: dict[str, object] = {
            "balances": {
                "endowments": [{"account": u, "free": _TOKENS} for u in users]
            },
            "sudo": {"key": boss},
        }
        known = {name: part for name, part in standard.items() if name in names}
        blob = encode({**known, **self._own_genesis()})
        create_durably(self.home.genesis, blob)
        return blob

    def write_worker(
        self, number: int, *, seat: str, port: int, l1: str, upstream: str
    ) -> Path:
        """A worker's home, as `sealift worker init` writes it."""
        home = self.home
        folder = home.worker(number)
        make_folder(folder)
        write_account_key(folder / "operator.key", home.secret(seat))
        text = TEMPLATE.format(
            rpc=l1,
            shard=home.shard().hex(),
            genesis=home.genesis,
            bundle=home.bundle(number),
            sim=home.sim,
            machine=seat,
            port=port,
            upstream=upstream,
        )
        write_durably(folder / CONFIG_FILE, text.encode())
        return folder

    def write_card(self, bundle: Bundle, *, l1: str, worker: str) -> None:
        """What users need now."""
        card = card_of_bundle(bundle, shard=self.home.shard(), l1=l1, workers=(worker,))
        write_card(self.home.card, card)

    def _make_chain(
        self, anchor: TrustAnchor, *, block_ms: int, port: int
    ) -> TrustRoot:
        params = LedgerParams()
        return init_solo(
            self.home.chain,
            chain_id=CHAIN_ID,
            genesis_time=self._clock.now(),
            accounts=dict.fromkeys((*FIRST_ACCOUNTS, BOSS, *SEATS)),
            app_state=lambda keys: first_state(
                CHAIN_ID, keys, anchors=(anchor,), params=params
            ),
            application=LedgerApplication(DcapVerifier()),
            entropy=self._entropy,
            config=SoloConfig(block_ms=block_ms, port=port, moniker="dev"),
            consensus_params=ledger_consensus_params(params),
        )

    def _own_genesis(self) -> dict[str, object]:
        path = self.application / GENESIS_FILE
        if not path.is_file():
            return {}
        raw = read_or_explain(path, what="genesis of the application")
        try:
            return msgspec.json.decode(raw, type=dict[str, object])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ApplicationError(
                f"{path} is wrong ({error})",
                expected="a JSON object: pallet to what its genesis takes",
            ) from error


def code_of(bundle: Bundle) -> Fingerprint:
    """Its MRENCLAVE."""
    return measure(bundle.files).mrenclave


def example_commands(home: DevHome, metadata: RuntimeMetadata) -> list[str]:
    """A call and a read of the application's own that can be pasted as they are."""
    words = f"--card {home.card} --key {home.key(USERS[0])}"
    found = []
    for pallet in metadata.pallets:
        for call in pallet.calls:
            arguments = [_example(arg.name, arg.spec.kind) for arg in call.args]
            if pallet.name not in STANDARD and all(arguments):
                said = " ".join([f"{pallet.name}.{call.name}", *arguments])
                found.append(f"sealift client call {said} {words}")
                break
        for getter in pallet.getters:
            if pallet.name not in STANDARD and not getter.args:
                found.append(f"sealift client ask {pallet.name}.{getter.name} {words}")
                break
    return found or [f"sealift client balance {words}"]


def _example(name: str, kind: str) -> str:
    value = _EXAMPLES.get(kind)
    return "" if value is None else f"{name}={value}"
