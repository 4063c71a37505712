"""Makes specimens of evidence: ``python tests/evidence/specimen.py NAME [FOLDER]``.

A specimen is a file of evidence as a release wrote it, with what its reader trusts
and the words that it is told in. Later verifiers must read it. It is made once:
a folder that exists is never written again (``--words`` writes the words alone,
by the verifier as it is now).

The same code makes the same bytes. Of a world all is seeded but the simulated
Intel and the vendor, whose keys and signatures are the library's: here they are
derived from the specimen's name. Users' calls are sealed with the library's
randomness, so no user calls here; whoever tells of a vote by stake is a ghost.
"""

import contextlib
import importlib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from ghosts import Ghost, haunted
from histories import (
    HALF,
    HOSTS,
    OPERATORS,
    TENTH,
    handed_over,
    hosts_vote,
    order_of,
    second_of,
)
from lineages import export, replace, trust_root

from sealift.base import Height
from sealift.cli import _evidence
from sealift.crypto import sha256
from sealift.evidence import render_evidence
from sealift.frame import Runtime
from sealift.insecure_sim import _intel
from sealift.protocol import (
    CancelOrder,
    RehearsalsOrder,
    RotationRequest,
    RulesOrder,
    ShardStatus,
    StakeAuthority,
    StakeDecision,
    StatusOrder,
    SudoAuthority,
    Tally,
    UpgradeOrder,
)
from sealift.testing import World, _release

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
SPECIMENS: Final = HERE / "specimens"
#: What ``sealift evidence verify`` needs beside a specimen's own files: the clock
#: of a world stands in 2023.
OPTIONS: Final = ("--trusting-days", "36500")
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class SpecimenError(Exception):
    """A specimen that is not made."""


# --- histories ---


def enclaves(world: World, runtime: Runtime) -> None:
    """A key hands the shard to its hosts; they vote for code; keys rotate twice."""
    first = world.release(runtime, sources={"app.py": b"first"})
    second = world.release(runtime, sources={"app.py": b"second"})
    old = world.begin(first, config=world.config(first, operators=OPERATORS))
    world.blocks(2)
    rules = replace(world.schedule_now().rules, authority=HOSTS)
    at = Height(world.height + 5)
    change = world.order(RulesOrder, rules=rules, effective_at=at)
    world.submit(world.sign_order(change))
    other = second_of(world, old)
    world.run_until(at + 1)
    order = order_of(world, config=world.config(second, operators=OPERATORS))
    hosts_vote(world, order, old, other)
    handed_over(world, old)


def holders(world: World, runtime: Runtime) -> None:
    """Ghosts tell what holders decided; a floor, a rotation, and a cancel by a key."""
    terms = StakeAuthority(threshold=HALF, quorum=TENTH, stake_age=1, period=5)
    world._more_rules = {"authority": terms, "effects_quorum": 2, "rotation_quorum": 2}
    world._more_rules["emergency"] = SudoAuthority(key=world.account("carol"))
    one, two = haunted(world, runtime, "one", "two")
    at = world.height
    order = world.order(
        UpgradeOrder,
        predecessor=0,
        config=world.config(world.releases[1]),
        release_from=Height(at + 12),
        upgrade_at=Height(at + 14),
    )
    tally = Tally(ayes=70, nays=30, electorate=1000, voters=12)
    effect = StakeDecision(order=order, passed=True, tally=tally)
    one.effects(at, effect)
    two.effects(at, effect)
    one.confirm()
    world.submit(world.sign_order(world.order(CancelOrder, generation=1), who="carol"))
    rotate = RotationRequest(not_before=Height(0), grace=2)
    status = ShardStatus(min_isv_svn=1)
    raised = world.order(StatusOrder, status=status, rotate=rotate)
    world.submit(world.sign_order(raised, who="carol"))
    one.stage(1)
    two.hold(1)
    world.blocks(4)
    one.confirm()
    world.blocks(2)


def rehearsals(world: World, runtime: Runtime) -> None:
    """Ghosts rehearse badly, are put off by rule, rehearse well, and run."""
    (old,) = haunted(world, runtime, "one")
    order = world.upgrade_order(world.releases[1]).order
    release = Height(world.height + 3)
    order = replace(order, release_from=release, upgrade_at=Height(release + 4))
    world.submit(world.sign_order(order))
    new = Ghost(world, "two", world.releases[1])
    new.register()
    world.run_until(release)
    new.rehearse(1, good=False)
    world.run_until(order.upgrade_at)
    terms = {"required": 2, "postpone_by": 20}
    at = Height(world.height + 40)
    change = world.order(RehearsalsOrder, effective_at=at, **terms)
    world.submit(world.sign_order(change))
    new.rehearse(1)
    old.confirm()
    world.run_until(world.schedule_now().entry(1).upgrade_at + 2)


HISTORIES: Final[dict[str, Callable[[World, Runtime], None]]] = {
    "v1-enclaves": enclaves,
    "v1-holders": holders,
    "v1-rehearsals": rehearsals,
}
#: What a history's world is made with.
WORLDS: Final[dict[str, dict[str, Any]]] = {
    "v1-rehearsals": {"runtime": 3, "rehearsals": (1, 10)},
}


def make(name: str, runtime: Runtime) -> dict[str, bytes]:
    """A specimen's files by name, without the words; the same ones each time."""
    with tempfile.TemporaryDirectory() as folder, derived(name):
        world = World(Path(folder) / "intel", **WORLDS.get(name, {}))
        HISTORIES[name](world, runtime)
        root = trust_root(world)
        shown = {
            "chain_id": root.chain_id,
            "height": root.height,
            "header_hash": root.header_hash.hex(),
        }
        return {
            "shard.evidence": render_evidence(export(world)),
            "trust_root.json": json.dumps(shown, indent=2).encode() + b"\n",
            "root.der": world.intel.root_der,
        }


def command(folder: Path) -> list[str]:
    """The words after ``sealift`` that verify a specimen."""
    return [
        *("evidence", "verify", f"{folder}/shard.evidence"),
        *("--trust-root", f"{folder}/trust_root.json"),
        *("--root", f"{folder}/root.der", *OPTIONS),
    ]


# --- keys and signatures that are the same each time ---


@contextlib.contextmanager
def derived(name: str) -> Iterator[None]:
    """The simulated Intel's and the vendor's randomness is derived from a name."""
    count = itertools.count(1)

    def number(bound: int) -> int:
        seed = b"%s %d" % (name.encode(), next(count))
        return int.from_bytes(sha256(seed), "big") % (bound - 1) + 1

    def new_key(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(number(_P256_ORDER), curve)

    def signing(real: Callable[..., Any]) -> Callable[..., Any]:
        def sign(*given: Any, **named: Any) -> Any:
            return real(*given, **(named | {"ecdsa_deterministic": True}))

        return sign

    def same_each_time(kind: HashAlgorithm) -> ec.ECDSA:
        return ec.ECDSA(kind, deterministic_signing=True)

    builders = (x509.CertificateBuilder, x509.CertificateRevocationListBuilder)
    with contextlib.ExitStack() as stack:

        def patch(target: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(target, name, value))

        patch(ec, "generate_private_key", new_key)
        patch(_intel, "ec", SimpleNamespace(ECDSA=same_each_time))
        patch(x509, "random_serial_number", lambda: number(2**128))
        for builder in builders:
            patch(builder, "sign", signing(builder.sign))
        pem = _vendor()
        patch(_release, "vendor_key", lambda: pem)
        yield


def _vendor() -> bytes:
    """An RSA-3072 key with exponent 3, from two numbers."""
    p, q = (_prime(name) for name in (b"p", b"q"))
    p, q = max(p, q), min(p, q)
    exponent = pow(3, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=exponent,
        dmp1=rsa.rsa_crt_dmp1(exponent, p),
        dmq1=rsa.rsa_crt_dmq1(exponent, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(3, p * q),
    )
    key = numbers.private_key()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _prime(name: bytes) -> int:
    """The first prime of 1,536 bits after a number, not 1 modulo 3."""
    parts = [sha256(b"specimen prime %s %d" % (name, part)) for part in range(6)]
    found = int.from_bytes(b"".join(parts), "big") | 3 << 1534 | 1
    small = [n for n in range(3, 2000, 2) if all(n % d for d in range(3, n, 2))]
    while (
        found % 3 == 1
        or any(found % n == 0 for n in small)
        or pow(2, found - 1, found) != 1
    ):
        found += 2
    return found


# --- small things ---


def auction() -> Runtime:
    """Version 1 of the example, as a runtime in this process."""
    sys.path.insert(0, str(ROOT / "examples" / "auction" / "v1" / "app"))
    found: Runtime = importlib.import_module("auction.runtime").runtime
    return found


def told(folder: Path) -> str:
    """A specimen in words, by the verifier as it is now.

    Raises:
        SpecimenError: It refuses.
    """
    done = CliRunner().invoke(_evidence.evidence, command(folder)[1:])
    if done.exit_code:
        raise SpecimenError(f"{folder}: {done.output}{done.exception}")
    return done.output


def main(words: list[str]) -> None:
    """Write a specimen that does not exist, or ``--words`` the words of one.

    Raises:
        SpecimenError: It exists, or there is no such history.
    """
    only_words = "--words" in words
    name, *where = [word for word in words if word != "--words"]
    folder = (Path(where[0]) if where else SPECIMENS) / name
    if not only_words:
        if name not in HISTORIES or folder.exists():
            raise SpecimenError(f"{name}: unknown, or made before: it stays as it is")
        files = make(name, auction())
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
    (folder / "words.txt").write_text(told(folder), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
