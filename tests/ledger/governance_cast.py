"""Who takes part in a shard's governance, and the forms it may have."""

from typing import Any

from sealift.crypto import rsa_generate, rsa_public_modulus, sha256
from sealift.protocol import (
    AllOf,
    AnyOf,
    EpochKeysPublic,
    HandoverPolicy,
    Ratio,
    SignerAuthority,
    StakeAuthority,
    SudoAuthority,
    WorkersAuthority,
)

VENDOR = rsa_generate()
MODULUS = rsa_public_modulus(VENDOR).to_bytes(384, "little")
MR_SIGNER = sha256(MODULUS)
AGE, SEAT_AGE, PERIOD = 24, 4, 9
HALF = Ratio(numerator=1, denominator=2)
WORKERS = WorkersAuthority(threshold=HALF, seat_age=SEAT_AGE, period=PERIOD)
STAKE = StakeAuthority(threshold=HALF, quorum=HALF, stake_age=5, period=5)
SIGNER = SignerAuthority(mr_signer=MR_SIGNER, prod_id=1, min_svn=1)
#: What whoever pays for a deed loses by it, refused or not.
PAYER = (b"system/nonces/", b"balances/")
ADVISORY = "INTEL-SA-00615"
#: Instance, code, machine, operator: three machines, one of them twice.
CAST = (
    ("a1", "A", "m1", "operator"),
    ("a2", "A", "m2", "other-operator"),
    ("a3", "A", "m3", "operator"),
    ("twin", "A", "m1", "other-operator"),
    ("b1", "B", "m1", "operator"),
    ("b2", "B", "m2", "other-operator"),
    ("b3", "B", "m3", "operator"),
    ("c1", "C", "m1", "operator"),
    ("c2", "C", "m2", "other-operator"),
)
HANDOVERS = (
    HandoverPolicy(),
    HandoverPolicy(shielding="pass"),
    HandoverPolicy(shielding="pass", state="pass", root="pass"),
)


def authorities(world: Any) -> dict[str, Any]:
    """The forms by which a shard is governed here."""
    boss = SudoAuthority(key=world.account("authority"))
    return {
        "sudo": boss,
        "signer": SIGNER,
        "workers": WORKERS,
        "stake": AllOf(members=(STAKE, boss)),
        "any": AnyOf(members=(boss, WORKERS, SIGNER)),
        "all": AllOf(members=(boss, SIGNER)),
        "any of all": AnyOf(
            members=(AllOf(members=(boss, WORKERS)), AllOf(members=(STAKE, SIGNER)))
        ),
        "all of any": AllOf(members=(AnyOf(members=(boss, SIGNER)), WORKERS)),
    }


def emergencies(world: Any) -> dict[str, Any]:
    """Who may act at once."""
    guard = SudoAuthority(key=world.account("root"))
    return {
        "none": None,
        "guard": guard,
        "guard or workers": AnyOf(members=(guard, WORKERS)),
    }


def public_keys(number: int, **passed: bytes) -> EpochKeysPublic:
    """Public keys that nobody had before."""
    names = ("shielding_key", "state_key_commitment", "root_key_commitment")
    made = {name: sha256(f"{number} {name}".encode()) for name in names}
    return EpochKeysPublic(**(made | passed))
