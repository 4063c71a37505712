"""What L1 says about a home's instances: hints, read anew with each block."""

from contextlib import suppress
from typing import Final, TypeVar

from sealift.base import Fingerprint, Height, Message, ShardId, canonical_decode
from sealift.protocol import (
    Frontier,
    HandoverCertificate,
    NoGenerationError,
    Schedule,
    certificate_key,
    config_at,
    frontier_key,
    schedule_key,
)
from sealift.transport.rpc import L1Client

from ._config import Platform, WorkerConfig
from ._front import Rank
from ._instances import code_of, instance_config, staged_instances
from ._plan import Plan, generation_at, plan_for

T = TypeVar("T", bound=Message)
#: An enclave that is up has heard of an epoch so many blocks after it began.
_HEARD_OF: Final = 8


class Outlook:
    """The shard's schedule as it was last read, and the plan that follows.

    Args:
        l1: The node.
        shard: Whose schedule.
        platform: What the instances run on.
    """

    def __init__(self, l1: L1Client, shard: ShardId, platform: Platform) -> None:
        self._l1 = l1
        self._shard = shard
        self._platform = platform
        self._head = Height(0)
        self.schedule: Schedule | None = None
        self.plan: Plan | None = None

    async def look(self, head: Height) -> None:
        """Read it as it is at the head; without a shard there, nothing changes.

        Raises:
            SealiftError: The node does not answer.
        """
        shard = self._shard
        schedule = await self._read(schedule_key(shard), Schedule)
        if schedule is None:
            return
        frontier = await self._read(frontier_key(shard), Frontier)
        certificate = await self._read(certificate_key(shard), HandoverCertificate)
        self._head, self.schedule = head, schedule
        self.plan = plan_for(
            schedule,
            head=head,
            platform=self._platform,
            frontier=frontier,
            certificate=certificate,
        )

    async def _read(self, key: bytes, kind: type[T]) -> T | None:
        entry = await self._l1.abci_query(key, prove=False)
        return None if entry.value is None else canonical_decode(kind, entry.value)

    def wants(self, code: Fingerprint, handed_over: int | None) -> bool:
        """Whether an instance of a code should be up (:meth:`Plan.wants`)."""
        plan = self.plan
        return plan is not None and plan.wants(code, self._platform, handed_over)

    def is_new(self, epoch: int) -> bool:
        """Whether a key epoch is one of which an enclave hears about now.

        It is the newest, and has not acted for long: who lacks its keys then is not
        waited for.
        """
        newest = self.schedule.epochs[-1:] if self.schedule is not None else ()
        return any(
            one.epoch == epoch and self._head < one.valid_from + _HEARD_OF
            for one in newest
        )

    def rank(self, code: Fingerprint, height: int | None) -> Rank:
        """How far an instance is whose state stands after a block."""
        if height is None:
            return Rank()
        generation = generation_at(self.schedule, code, height, self._platform)
        return Rank(generation=generation, height=height)


async def running_instance(config: WorkerConfig, l1: L1Client) -> WorkerConfig:
    """Which instance of a home has the code that runs now, by what the node says.

    Returns:
        The one that was staged with it; else the home's own, whose start or whose
        peers say what is wrong with it.

    Raises:
        SealiftError: The node does not answer; a note about an instance is damaged.
    """
    outlook = Outlook(l1, config.shard, config.platform)
    head = await l1.height()
    await outlook.look(head)
    if outlook.schedule is not None:
        with suppress(NoGenerationError):
            code = code_of(config_at(outlook.schedule, head), config.platform)
            if code in list(staged_instances(config)):
                return instance_config(config, code)
    return config
