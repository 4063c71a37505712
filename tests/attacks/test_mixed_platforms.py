"""A generation that runs on two kinds of platform is still one state machine."""

from pathlib import Path

import msgspec

from sealift.frame import Runtime
from sealift.stf import StandardPallets
from sealift.testing import World


def test_a_user_cannot_part_two_platforms_by_pinning_a_call_to_one_of_them(
    tmp_path: Path,
) -> None:
    """If each instance went by its own MRENCLAVE, one would execute the call and
    the other refuse it: two roots, and the shard in maintenance for a user's call.
    """
    world = World(tmp_path)
    standard = StandardPallets()
    release = world.release(Runtime(name="t", version=1, pallets=standard.pallets))
    config = world.config(release)
    elsewhere = b"G" * 32
    both = msgspec.structs.replace(
        config, code={**config.code, "gramine-sgx": elsewhere}
    )
    world.begin(release, config=both)
    alice, bob = world.user("alice"), world.user("bob")
    calls = {
        pin: alice.call("balances.transfer", pin=pin, dest=bob.account, amount=1)
        for pin in (release.fingerprint, elsewhere)
    }
    world.blocks(3)
    assert [call.receipt().outcome for call in calls.values()] == ["ok", "ok"]
    foreign = alice.call("balances.transfer", pin=b"H" * 32, dest=bob.account, amount=1)
    world.blocks(3)
    assert foreign.receipt().outcome == "FingerprintPinError"
