"""The supervisor of a local network: starts all of it in order, keeps it running."""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Final

from sealift.base import ChainId, Height, InvariantError
from sealift.bundle import measure
from sealift.client import WorkerUnreachableError
from sealift.crypto import account_of, sha256
from sealift.node.cometbft import require_free
from sealift.protocol import (
    ShardConfig,
    ShardRules,
    SudoAuthority,
    schedule_key,
)
from sealift.relay import RpcRemoteError, TrustRoot, header_hash
from sealift.transport.account import L1Account
from sealift.transport.clock import Clock
from sealift.transport.files import hold_lock, read_or_explain
from sealift.transport.keys import read_account_key
from sealift.transport.marks import mark_of
from sealift.transport.rpc import Backoff, L1Client, NodeUnreachableError, system_jitter
from sealift.transport.supervise import (
    Service,
    Supervisor,
    SupervisorRecord,
    end_recorded,
    read_record,
    write_record,
)

from ._cards import SIM_KIND, read_bundle
from ._testnet_home import (
    BOSS,
    Plan,
    PlannedWorker,
    TestnetError,
    TestnetHome,
    build_once,
    keep_trust_root,
    rpc_of,
    url_of,
    write_users_card,
    write_workers,
)
from ._worker_http import ask_status

_SEALIFT: Final = (sys.executable, "-m", "sealift")
_READY: Final = r"^ready http://\S+"
_POLL_SECONDS: Final = 0.2
#: How long a network may take for its first blocks and a worker for its keys.
_PATIENCE: Final = 180.0
#: A node replays what its ledger lacks before it answers.
_REPLAY: Final = 900.0
_MIN_NOTICE: Final = 20
_RESCUE_AFTER: Final = 100
#: What a killed supervisor's processes get to end.
GRACE: Final = 30.0


class TestnetRun:
    """Runs a network that was made, from wherever it was interrupted.

    Args:
        home: The network.
        clock: The wall clock.
        say: Gets a line whenever something happens.
    """

    #: pytest shall not take it for a test.
    __test__ = False

    def __init__(
        self, home: TestnetHome, *, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._home = home
        self._plan: Plan = home.read_plan()
        self._clock = clock
        self._say = say
        me = mark_of(os.getpid())
        if me is None:
            raise InvariantError("this process has no /proc entry")
        self._me = me
        self._ready = False
        self._supervisor = Supervisor(say=say, changed=self._note, clock=clock)

    async def serve(self) -> None:
        """Start all of it and keep it running, until cancelled.

        1. Nothing else runs it; what a killed supervisor left is ended; its ports
        are free. 2. The validators run, make blocks, and agree on block 1. 3. The
        bundle is built, the shard is created, the workers' homes are written:
        each once. 4. The first worker has the shard's state, the others get its
        keys over mutual attestation.

        Raises:
            FileLockedError: Its supervisor runs already.
            NodePortError: One of its ports is taken.
            ProcessNotReadyError: A part of it does not start.
            TestnetError: It does not get on.
        """
        with hold_lock(self._home.lock):  # 1.
            await self._end_leftovers()
            self._require_ports()
            self._note()
            try:
                await self._start()
                self._ready = True
                self._note()
                self._say(
                    f"ready {rpc_of(self._plan.validators[0])} "
                    f"chain={self._plan.chain_id} "
                    f"shard={self._home.shard(self._plan).hex()}"
                )
                await asyncio.Event().wait()
            finally:
                self._ready = False
                await asyncio.shield(self._supervisor.stop_all())
                self._note()

    async def _start(self) -> None:
        plan, home = self._plan, self._home
        await asyncio.gather(*(self._validator(v.name) for v in plan.validators))  # 2.
        root = await self._first_block()
        if not home.trust_root.is_file():
            keep_trust_root(home, root)
        if not plan.workers:
            return
        if not home.bundle.is_file():  # 3.
            self._say("building the bundle of the example application")
        await asyncio.to_thread(build_once, home, clock=self._clock)
        await self._create_shard()
        write_workers(home, plan)
        write_users_card(home, plan)
        first, *others = plan.workers  # 4.
        await self._worker(first)
        await self._until_state(first.name, url_of(first))
        await asyncio.gather(*(self._worker(one) for one in others))
        await asyncio.gather(
            *(self._until_state(one.name, url_of(one)) for one in others)
        )

    async def _validator(self, name: str) -> None:
        await self._supervisor.start(
            self._service(
                name, "node", "cometbft", self._home.validator(name).root, _REPLAY
            )
        )

    async def _worker(self, worker: PlannedWorker) -> None:
        """Start a worker; all validators but its own are its witnesses."""
        others = (one for one in self._plan.validators if one.name != worker.follows)
        words = [word for one in others for word in ("--witness", rpc_of(one))]
        home = self._home.worker(worker.name)
        await self._supervisor.start(
            self._service(worker.name, "worker", "run", home, _PATIENCE, *words)
        )

    def _service(
        self,
        name: str,
        noun: str,
        verb: str,
        home: os.PathLike[str],
        within: float,
        *words: str,
    ) -> Service:
        return Service(
            name=name,
            argv=(*_SEALIFT, noun, verb, os.fspath(home), *words),
            log=self._home.log(name),
            ready=_READY,
            within=within,
        )

    async def _first_block(self) -> TrustRoot:
        """Block 1, by the word of every validator.

        Raises:
            TestnetError: They differ, or there are no blocks.
        """
        found = await asyncio.gather(
            *(self._ask_first(one.name, rpc_of(one)) for one in self._plan.validators)
        )
        roots = set(found)
        if len(roots) > 1:
            raise TestnetError(
                "the validators have different chains",
                got=", ".join(root.header_hash.hex()[:16] for root in roots),
                expected="one block 1",
            )
        return roots.pop()

    async def _ask_first(self, name: str, url: str) -> TrustRoot:
        patience = Backoff(attempts=1, jitter=system_jitter)
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                L1Client(url, backoff=patience) as l1,
            ):
                while True:
                    try:
                        if await l1.height() > 1:
                            found = (await l1.commit(Height(1))).signed_header.header
                            return TrustRoot(
                                chain_id=ChainId(found.chain_id),
                                height=Height(1),
                                header_hash=header_hash(found),
                            )
                    except (NodeUnreachableError, RpcRemoteError):
                        pass  # the supervisor starts it again
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise TestnetError(
                f"{name} has no blocks after {_PATIENCE:.0f} s",
                hint=f"Its logs are {self._home.log(name)} and "
                f"{self._home.validator(name).log}",
            ) from error

    async def _create_shard(self) -> None:
        """The shard of the example, with the boss as its authority; once."""
        url = rpc_of(self._plan.validators[0])
        secret = read_account_key(self._home.key(BOSS))
        shard = self._home.shard(self._plan)
        async with L1Client(url, backoff=Backoff(jitter=system_jitter)) as l1:
            if (await l1.abci_query(schedule_key(shard), prove=False)).value:
                return
            self._say(f"creating the shard {shard.hex()}")
            blob = read_or_explain(self._home.genesis, what="genesis blob")
            bundle = read_bundle(self._home.bundle)
            account = L1Account(secret, l1, ChainId(self._plan.chain_id))
            done = await account.act(
                "enclave_bridge.create_shard",
                {
                    "rules": ShardRules(
                        authority=SudoAuthority(key=account_of(secret)),
                        genesis=sha256(blob),
                        min_notice=_MIN_NOTICE,
                        rescue_after=_RESCUE_AFTER,
                    ),
                    "config": ShardConfig(
                        code={SIM_KIND: measure(bundle.files).mrenclave}
                    ),
                },
            )
            while await l1.height() <= done.height:  # noqa: ASYNC110 - an RPC node
                await asyncio.sleep(_POLL_SECONDS)

    async def _until_state(self, name: str, url: str) -> None:
        """Until a worker has keys and state."""
        idle = ""
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    try:
                        status = await ask_status(url)
                    except WorkerUnreachableError:
                        pass  # the supervisor starts it again
                    else:
                        if status.get("state_height") is not None:
                            self._say(f"{name} has the shard's keys and state")
                            return
                        idle = str(status.get("idle") or status.get("waiting_for"))
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise TestnetError(
                f"{name} has no state after {_PATIENCE:.0f} s",
                got=idle or "no answer",
                hint=f"Its log is {self._home.log(name)}",
            ) from error

    async def _end_leftovers(self) -> None:
        left = read_record(self._home.record)
        if left is None:
            return
        for name in await end_recorded(left, grace=GRACE):
            self._say(f"ended {name}, which a killed supervisor had left")

    def _require_ports(self) -> None:
        for one in self._plan.validators:
            require_free(one.rpc, what=f"the RPC of {one.name}")
            require_free(one.p2p, what=f"the peer port of {one.name}")
        for worker in self._plan.workers:
            require_free(worker.port, what=worker.name)

    def _note(self) -> None:
        write_record(
            self._home.record,
            SupervisorRecord(
                supervisor=self._me,
                ready=self._ready,
                services=self._supervisor.states(),
            ),
        )
