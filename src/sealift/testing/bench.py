"""Benchmarks: our speed as a share of the bare work, measured in one run.

``ratio`` is floor ÷ ours (1.0 means no overhead), the median of interleaved
rounds; machines are shared and noisy, ratios travel better than times. Run by
``sealift bench`` in a process of its own, because it needs the enclave wing::

    python -m sealift.testing.bench [NAME …]      one JSON object on stdout

=============  =======================================  ==========================
name           ours                                     floor
=============  =======================================  ==========================
exec           open, verify, execute, seal receipts,    one HPKE open and one
               write pages, root: calls/s on one core   ZIP-215 verification a call
relay          adjacent headers of 100 validators, JSON the bare signature
               excluded: headers/s                      verifications
bisection      trials over 10,000 headers, 100          the gap by the distance
               validators of whom one leaves every      over which trust reaches
               10 blocks: a count, not a time
quote          verify_quote (two verifiers): ms         dcap-qvl alone
provisioning   mu-ra, both ends, L1 excluded: ms        RA-TLS handshake, two quote
                                                        verifications, one HPKE
handover       both enclaves over blocks XYZ-1 and XYZ  both over two ordinary
               (no layout migration; 1,000 accounts,    blocks before
               50 calls a block): ms
rotation       stage, provision the second instance,    as provisioning
               hold, until the epoch acts; making of
               blocks excluded, following included: ms
votes          sealed votes of a referendum of 100,000  as exec
               voters: votes/s on one core
tally          longest block from the one that closes   the median block where
               it to the last that forgets it, with     no poll ever ran, of the
               500 transfers in each: ms                same load
cost           bytes on L1 of a call alone in its       the signed call itself,
               block: transaction and confirmation      not padded, not sealed
abci           a transaction by CheckTx, a proposal,    the same server and client
               FinalizeBlock and Commit over the        with an application that
               socket: µs                               does nothing
catchup        blocks a worker comes back by, after     the same blocks,
               it was away, by diffs: blocks/s          followed and executed
gap_1k, _100k, the longest from one block's receipts    submit to receipt in
_1m            to the next around XYZ, less the usual,  ordinary blocks, by the
               in block intervals, under load           worst around XYZ
gap_ratio      submit to receipt, the worst around XYZ  1: ``ratio`` is many by
               at a million accounts, by that at 1,000  few, not floor by ours
snapshot       export, fsynced files, read, import of   AEAD and the same disk
               a million accounts: MiB/s                alone
memory         growth of a process by the state of a    the bytes of its entries
               million accounts: B an account
join_ratio     a newcomer's time in both enclaves by    1: ``ratio`` is long by
               10,000 blocks of history, by that at 10  short, not floor by ours
invoke_1, _4   sealed calls through CometBFT with 1     the ledger alone, on the
               or 4 validators into an enclave: calls/s same blocks
=============  =======================================  ==========================
"""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dcap_qvl
from msgspec.structs import replace

from sealift.attestation import (
    RatlsSession,
    generate_tls_key,
    make_session_certificate,
    parse_collateral,
    parse_trust_anchor,
    verify_quote,
)
from sealift.base import (
    AccountId,
    Height,
    UnixSeconds,
)
from sealift.cli.invoke_bench import bench_invoke
from sealift.crypto import (
    HpkeSuite,
    account_of,
    hpke_generate,
    hpke_open,
    hpke_seal,
    sha256,
    sign,
    system_entropy,
    verify_signature,
)
from sealift.node.cometbft import (
    EngineMissingError,
    EngineVersionError,
    find_engine,
)
from sealift.protocol import RotationRequest, ShardStatus, StatusOrder, epoch_at
from sealift.relay import (
    FLAG_COMMIT,
    NO_EVIDENCE_HASH,
    BlockId,
    ChainRelay,
    Commit,
    CommitSig,
    ConsensusVersion,
    Header,
    LightBlock,
    PartSetHeader,
    RelayRules,
    SignedHeader,
    Timestamp,
    TrustRoot,
    Validator,
    ValidatorSet,
    data_hash,
    header_hash,
    results_hash,
    validators_hash,
    vote_sign_bytes,
)
from sealift.transport.clock import WallClock, unix_seconds

from ._bench_abci import bench_abci
from ._bench_bisection import bench_bisection
from ._bench_cost import bench_cost
from ._bench_crowd import Meter
from ._bench_gap import bench_gap, bench_gap_ratio
from ._bench_join import bench_catchup, bench_join_ratio
from ._bench_shard import (
    CHAIN,
    ROUNDS,
    BenchShard,
    Result,
    bench_runtime,
    compared,
    timed,
)
from ._bench_snapshot import bench_memory, bench_snapshot
from ._bench_tally import bench_tally, bench_votes
from ._release import Release
from ._worker import WorldWorker
from ._world import World

_PATIENCE_BLOCKS = 8
#: Instead of names: those that take long, too.
ALL = "--all"

# --- exec ---


def bench_exec(*, accounts: int = 1000, calls: int = 1000) -> Result:
    """Whole blocks of transfers, against the bare cryptography of their calls."""
    shard = BenchShard(keyed=accounts)
    rounds = 3 * ROUNDS  # what a second on a shared machine is worth differs
    blocks = [shard.transfers(calls, nonce) for nonce in range(rounds)]
    ours, bare = iter(blocks), iter(blocks)
    mine, floor, ratio = compared(
        lambda: shard.execute(next(ours)), lambda: shard.bare(next(bare)), rounds
    )
    return Result(value=calls / mine, unit="calls/s", floor=calls / floor, ratio=ratio)


# --- relay ---


def bench_relay(*, validators: int = 100, headers: int = 40) -> Result:
    """Sequential following, against the signatures that it must verify."""
    blocks, needed = _light_blocks(validators, headers)
    root = TrustRoot(
        chain_id=CHAIN,
        height=Height(1),
        header_hash=header_hash(blocks[0].signed_header.header),
    )
    rules = RelayRules(trusting_period=10**6)

    def ours() -> None:
        relay = ChainRelay.bootstrap(root, blocks[0], rules=rules, now=None)
        for block in blocks[1:]:
            relay.advance(block, now=None)

    def bare() -> None:
        for public, data, signature in needed:
            verify_signature(public, data, signature, what="a vote")

    mine, floor, ratio = compared(ours, bare)
    return Result(
        value=headers / mine, unit="headers/s", floor=headers / floor, ratio=ratio
    )


def _light_blocks(
    validators: int, headers: int
) -> tuple[list[LightBlock], list[tuple[bytes, bytes, bytes]]]:
    """A chain, and the signatures of two thirds and one of each commit."""
    secrets = {
        account_of(secret): secret
        for secret in (sha256(b"validator %d" % n) for n in range(validators))
    }
    group = ValidatorSet.sorted(
        tuple(Validator(public_key=key, power=10) for key in secrets)
    )
    digest = validators_hash(group)
    last = BlockId()
    blocks: list[LightBlock] = []
    needed: list[tuple[bytes, bytes, bytes]] = []
    for height in range(1, headers + 1):
        header = Header(
            version=ConsensusVersion(app=1),
            chain_id=CHAIN,
            height=Height(height),
            time=Timestamp(seconds=1_700_000_000 + height),
            last_block_id=last,
            last_commit_hash=sha256(b"commit"),
            data_hash=data_hash(()),
            validators_hash=digest,
            next_validators_hash=digest,
            consensus_hash=sha256(b"params"),
            app_hash=sha256(b"state"),
            last_results_hash=results_hash(()),
            evidence_hash=NO_EVIDENCE_HASH,
            proposer_address=group.validators[0].address,
        )
        parts = PartSetHeader(total=1, hash=sha256(b"parts"))
        last = BlockId(hash=header_hash(header), parts=parts)
        bare = Commit(height=Height(height), round=0, block_id=last)
        sigs = []
        for number, one in enumerate(group.validators):
            sig = CommitSig(
                flag=FLAG_COMMIT,
                validator_address=one.address,
                timestamp=header.time.plus(nanos=1000 + number),
            )
            data = vote_sign_bytes(CHAIN, bare, sig)
            signature = sign(secrets[AccountId(one.public_key)], data)
            sigs.append(replace(sig, signature=signature))
            if number <= validators * 2 // 3:
                needed.append((one.public_key, data, signature))
        commit = replace(bare, signatures=tuple(sigs))
        blocks.append(
            LightBlock(
                signed_header=SignedHeader(header=header, commit=commit),
                validators=group,
            )
        )
    return blocks, needed


# --- quote, provisioning, handover ---


def bench_quote(*, times: int = 20) -> Result:
    """Both verifiers, against dcap-qvl alone."""
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name))
        release = world.release(bench_runtime())
        machine = world.machine("bench")
        identity = machine.einit(
            release.bundle.measurement, release.bundle.bundle.sigstruct or b""
        )
        quote = machine.quote(identity, bytes(64))
        now = unix_seconds(WallClock())
        raw = world.intel.collateral_json(now=UnixSeconds(now - 60))
        anchor = parse_trust_anchor(world.intel.root_der)
        collateral = parse_collateral(raw)
        known = dcap_qvl.QuoteCollateralV3.from_json(raw.decode())

        def ours() -> None:
            for _ in range(times):
                verify_quote(quote, collateral=collateral, root=anchor, now=now)

        def bare() -> None:
            for _ in range(times):
                dcap_qvl.verify_with_root_ca(quote, known, anchor.root_der, now)

        mine, floor, ratio = compared(ours, bare)
    return Result(
        value=mine / times * 1000, unit="ms", floor=floor / times * 1000, ratio=ratio
    )


def bench_provisioning(*, rounds: int = 5) -> Result:
    """Both ends of mu-ra inside their enclaves, L1's blocks not counted."""
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name))
        release = world.release(bench_runtime())
        first = world.begin(release)
        world.blocks(2)
        spent, floors = [], []
        for number in range(rounds):
            requester = world.worker(f"requester-{number}", release)
            meter = Meter()
            meter.watch(first)
            meter.watch(requester)
            requester.request_keys(first)
            spent.append(meter.take())
            floors.append(timed(lambda: _bare_session(world, release)))
            del world.workers[f"requester-{number}"]
    mine, floor = statistics.median(spent), statistics.median(floors)
    ratio = statistics.median(f / m for m, f in zip(spent, floors, strict=True))
    return Result(value=mine * 1000, unit="ms", floor=floor * 1000, ratio=ratio)


def _bare_session(world: World, release: Release) -> None:
    """A mutual RA-TLS handshake, two quotes judged, one key package sealed."""
    machine = world.machine("bench")
    identity = machine.einit(
        release.bundle.measurement, release.bundle.bundle.sigstruct or b""
    )
    now = unix_seconds(WallClock())
    collateral = parse_collateral(
        world.intel.collateral_json(now=UnixSeconds(now - 60))
    )
    anchor = parse_trust_anchor(world.intel.root_der)
    ends = []
    for role in ("client", "server"):
        key = generate_tls_key(system_entropy)
        certificate = make_session_certificate(
            key=key,
            nonce=bytes(32),
            binding=bytes(32),
            quote=lambda data: machine.quote(identity, data),
        )
        ends.append(
            RatlsSession(
                role="client" if role == "client" else "server",
                certificate=certificate,
                key=key,
                verify_peer=lambda _: None,
            )
        )
    client, server = ends
    for _ in range(4):
        server.feed(client.take_output())
        client.feed(server.take_output())
    quote = machine.quote(identity, bytes(64))
    for _ in range(2):
        verify_quote(quote, collateral=collateral, root=anchor, now=now)
    keys = hpke_generate(HpkeSuite.MLKEM768_X25519, system_entropy)
    sealed = hpke_seal(keys.suite, keys.public, bytes(512), info=b"")
    hpke_open(keys.suite, keys.secret, sealed, info=b"", what="the package")


def bench_handover(*, rounds: int = 3, accounts: int = 1000, calls: int = 50) -> Result:
    """Both enclaves over XYZ-1 and XYZ, against two ordinary blocks."""
    spent, floors = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            ordinary, at_upgrade = _one_handover(Path(name), accounts, calls)
            floors.append(ordinary)
            spent.append(at_upgrade)
    mine, floor = statistics.median(spent), statistics.median(floors)
    ratio = statistics.median(f / m for m, f in zip(spent, floors, strict=True))
    return Result(value=mine * 1000, unit="ms", floor=floor * 1000, ratio=ratio)


def _one_handover(folder: Path, accounts: int, calls: int) -> tuple[float, float]:
    names = [f"user-{number}" for number in range(accounts)]
    world = World(folder, page_bits=12)
    old_release, new_release = (
        world.release(bench_runtime(1)),
        world.release(bench_runtime(2)),
    )
    old = world.begin(old_release, funds=dict.fromkeys(names, 1000))
    users = [world.user(name) for name in names[:calls]]
    world.blocks(2)
    entry = world.schedule(new_release, upgrade_at=world.height + 20)
    world.run_until(entry.release_from)
    new = world.worker("new", new_release, upstream=old)
    new.request_keys(old)
    meter = Meter()
    meter.watch(old)
    meter.watch(new)

    def block() -> float:
        for user in users:
            user.call("balances.transfer", dest=users[0].account, amount=1)
        meter.take()
        world.block()
        return meter.take()

    # Block h is executed when block h+1 is there.
    seconds: dict[int, float] = {}
    while world.height < entry.upgrade_at + 1:
        seconds[world.height] = block()
    at_upgrade = seconds[entry.upgrade_at - 1] + seconds[entry.upgrade_at]
    ordinary = seconds[entry.upgrade_at - 3] + seconds[entry.upgrade_at - 2]
    return ordinary, at_upgrade


# --- rotation ---


def bench_rotation(*, rounds: int = 5) -> Result:
    """Both enclaves from the first word of new keys until their epoch acts.

    One stages, the other is provisioned with what was staged and holds it; the
    enclaves' following of the blocks in between counts, making them does not.
    """
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name), rules={"rotation_quorum": 2})
        release = world.release(bench_runtime())
        first = world.begin(release)
        second = world.worker("second", release, operator="operator-2", upstream=first)
        second.request_keys(first)
        meter = Meter()
        meter.watch(first)
        meter.watch(second)
        spent, floors = [], []
        for _ in range(rounds):
            _ask_for_rotation(world)
            meter.take()
            _rotate(world, first, second)
            spent.append(meter.take())
            floors.append(timed(lambda: _bare_session(world, release)))
    mine, floor = statistics.median(spent), statistics.median(floors)
    ratio = statistics.median(f / m for m, f in zip(spent, floors, strict=True))
    return Result(value=mine * 1000, unit="ms", floor=floor * 1000, ratio=ratio)


def _ask_for_rotation(world: World) -> None:
    order = world.order(
        StatusOrder,
        status=ShardStatus(),
        rotate=RotationRequest(not_before=Height(0), grace=0),
    )
    world.submit(world.sign_order(order))
    world.blocks(2)


def _rotate(world: World, first: WorldWorker, second: WorldWorker) -> None:
    before = epoch_at(world.schedule_now(), world.height).epoch
    first.stage_keys()
    second.request_keys(first)
    second.hold_keys()
    for _ in range(_PATIENCE_BLOCKS):
        if epoch_at(world.schedule_now(), world.height).epoch > before:
            return
        world.block()
    raise SystemExit("bench rotation: the epoch does not act")


def _invoke(validators: int) -> Result:
    """With more fields than the others have: latency and shares."""
    return Result(bench_invoke(validators))


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "exec": bench_exec,
    "relay": bench_relay,
    "bisection": bench_bisection,
    "quote": bench_quote,
    "provisioning": bench_provisioning,
    "handover": bench_handover,
    "rotation": bench_rotation,
    "votes": bench_votes,
    "tally": bench_tally,
    "cost": bench_cost,
    "abci": bench_abci,
    "catchup": bench_catchup,
    "gap_1k": partial(bench_gap, 1000),
    "gap_100k": partial(bench_gap, 100_000),
    "gap_1m": partial(bench_gap, 1_000_000),
    "gap_ratio": bench_gap_ratio,
    "snapshot": bench_snapshot,
    "memory": bench_memory,
    "join_ratio": bench_join_ratio,
    "invoke_1": partial(_invoke, 1),
    "invoke_4": partial(_invoke, 4),
}
#: They take a minute or more each: run if named, or with ``--all``.
LARGE = frozenset({"gap_100k", "gap_1m", "gap_ratio", "snapshot", "join_ratio"})
#: They need CometBFT; without it, they are run only if named.
_NETWORKS = frozenset({"invoke_1", "invoke_4"})


def _runnable(*, large: bool) -> list[str]:
    """All, but for those that need an engine that is not there, or long."""
    left_out = frozenset[str]() if large else LARGE
    try:
        find_engine(os.environ)
    except (EngineMissingError, EngineVersionError):
        left_out |= _NETWORKS
    return [name for name in BENCHMARKS if name not in left_out]


def main(names: list[str]) -> None:
    """Run the named benchmarks; JSON on stdout.

    Args:
        names: None: those that take some minutes together; ``--all``: all.
    """
    if names in ([], [ALL]):
        names = _runnable(large=bool(names))
    found = {name: BENCHMARKS[name]() for name in names}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
