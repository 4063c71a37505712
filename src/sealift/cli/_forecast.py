"""Who would stay and who would fall out, before an act is decided."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sealift.base import MrSigner
from sealift.client import FoundInstances, ProvenChain, find_instances
from sealift.ledger import forecast
from sealift.protocol import (
    EnclaveRecord,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
)

from ._output import say
from ._records import Government


@dataclass(frozen=True, slots=True, kw_only=True)
class NextCode:
    """What is known of the code that a configuration names: vendor and version."""

    mr_signer: MrSigner | None = None
    prod_id: int | None = None
    isv_svn: int | None = None


async def registered(
    chain: ProvenChain, now: Government, *, blocks: int
) -> list[EnclaveRecord]:
    """Records of the shard's instances, as far as blocks name them; each proven."""
    found = await find_instances(chain, now.schedule.shard, blocks=blocks)
    say_how_far(found)
    return [one.record for one in found.instances]


def say_how_far(found: FoundInstances) -> None:
    """Tell people if there may be instances that were not found."""
    if not found.complete:
        say(
            f"Looked through blocks from {found.since} on: who registered before and "
            "has confirmed nothing since is missing. --blocks N looks further back."
        )


def forecast_rows(
    records: Sequence[EnclaveRecord],
    now: Government,
    config: ShardConfig,
    status: ShardStatus,
    *,
    code: NextCode,
) -> list[dict[str, object]]:
    """Each instance under another configuration and status.

    Whoever does not run the new code yet is judged as if this machine did: for
    what its evidence says, and not for what it has not started.
    """
    entry: ScheduleEntry = msgspec.structs.replace(now.running, config=config)
    as_next = [_with_code(one, config, code) for one in records]
    told = forecast(as_next, entry, status, height=now.height)
    return [
        {
            "instance": record.statement.signing_key,
            "stays": found.refusal is None,
            "why_not": "" if found.refusal is None else found.sentence,
            "runs_that_code": record.fingerprint == config.code.get(record.platform),
            "platform": record.platform_id,
            "operator": record.operator,
            "tcb": record.tcb_status,
            "advisories": record.advisories,
            "attested_at": record.attested_at,
            "url": record.url,
        }
        for record, found in zip(records, told, strict=True)
    ]


def forecast_summary(
    rows: Sequence[dict[str, object]], rules: ShardRules
) -> dict[str, object]:
    """How many stay, and which quorum would be missed."""
    platforms = {row["platform"] for row in rows if row["stays"]}
    stay = sum(1 for row in rows if row["stays"])
    missed = [
        f"{name} {wanted}"
        for name, wanted in (
            ("root_quorum", rules.root_quorum),
            ("effects_quorum", rules.effects_quorum),
        )
        if len(platforms) < wanted
    ]
    return {
        "instances": len(rows),
        "stay": stay,
        "fall_out": len(rows) - stay,
        "platforms_that_stay": len(platforms),
        "quorums_missed": missed,
    }


def _with_code(
    record: EnclaveRecord, config: ShardConfig, code: NextCode
) -> EnclaveRecord:
    wanted = config.code.get(record.platform)
    if wanted is None or record.fingerprint == wanted:
        return record
    signer = code.mr_signer or config.mr_signer or record.mr_signer
    product = config.isv_prod_id if code.prod_id is None else code.prod_id
    version = config.min_isv_svn if code.isv_svn is None else code.isv_svn
    return msgspec.structs.replace(
        record,
        fingerprint=wanted,
        mr_signer=signer,
        isv_prod_id=record.isv_prod_id if product is None else product,
        isv_svn=version if code.isv_svn is not None else max(version, record.isv_svn),
    )
