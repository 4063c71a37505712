"""``sealift worker stage``: the next code beside the one that runs, in one command."""

from contextlib import suppress
from pathlib import Path

import click
import msgspec

from sealift.base import SealiftError, canonical_decode
from sealift.protocol import Schedule, schedule_key
from sealift.transport.bundle_folder import read_bundle_file
from sealift.worker import (
    Judged,
    Progress,
    WorkerConfig,
    home_chain,
    judge_bundle,
    load_config,
    put_bundle,
    stage_in_running,
    worker_listens,
)

from ._output import emit, json_option, say, shown_safely
from ._params import PATH, open_l1, run


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--home",
    type=PATH,
    default=Path(),
    help="The worker's home (default: this folder).",
)
@click.option("--gramine", type=PATH, help="gramine-sgx: the folder that was signed.")
@click.option("--no-wait", is_flag=True, help="Return once it is being staged.")
@json_option
def stage(
    *, bundle: Path, home: Path, gramine: Path | None, no_wait: bool, as_json: bool
) -> None:
    r"""Start the next enclave beside the one that runs, in the running worker.

    The bundle is one that the shard's schedule names. The worker starts its enclave
    from a folder of its own, has it get keys and state from the one that runs, and
    lets it answer from its first block on; nobody's connection ends. Prints how far
    it is and what it waits for, until it is ready; Ctrl-C leaves the staging as it
    is. If no worker runs on HOME, the bundle is put into its bundle directory, and
    the next run stages it.

    \b
    Examples:
      sealift worker stage auction-v2.bundle --home w1
      sealift worker stage auction-v2.bundle --home w1 --no-wait --json
    """
    config = load_config(home)
    data = read_bundle_file(bundle)
    folder = None if gramine is None else gramine.resolve()
    _require_folder(config, folder)
    if worker_listens(home):
        run(_stage(home, data, folder, wait=not no_wait, as_json=as_json))
        return
    judged = run(_judge(config, data, folder))
    path = put_bundle(config, judged)
    say("No worker runs on this home: the next run stages it.")
    emit(
        {
            "mrenclave": judged.fingerprint,
            "version": judged.version,
            "state": "in the bundle directory",
            "bundle": str(path),
        },
        as_json=as_json,
    )


def _require_folder(config: WorkerConfig, gramine: Path | None) -> None:
    """A usage error where platform and folder do not go together."""
    if (config.platform == "gramine-sgx") != (gramine is not None):
        raise click.UsageError(
            "--gramine goes with a home on gramine-sgx, and that needs it."
        )


async def _stage(
    home: Path, data: bytes, gramine: Path | None, *, wait: bool, as_json: bool
) -> None:
    async for word in stage_in_running(home, data, gramine=gramine):
        if as_json:
            click.echo(msgspec.json.encode(msgspec.structs.asdict(word)))
        else:
            click.echo(shown_safely(_sentence(word)))
        if not wait:
            return


def _sentence(word: Progress) -> str:
    parts = [f"{word.version} {word.fingerprint[:8]} {word.state}"]
    if word.state_height is not None:
        parts.append(f"state {word.state_height}")
    if word.imported is not None:
        parts.append(f"block {word.imported} of {word.head}")
    if word.waits_for:
        parts.append(f"waits for {word.waits_for}")
    return ", ".join(parts)


async def _judge(config: WorkerConfig, data: bytes, gramine: Path | None) -> Judged:
    """By the schedule, if L1 answers; else the next run judges by it."""
    schedule: Schedule | None = None
    with suppress(SealiftError):
        async with open_l1(config.l1.rpc) as l1:
            entry = await l1.abci_query(schedule_key(config.shard), prove=False)
            if entry.value is not None:
                schedule = canonical_decode(Schedule, entry.value)
    if schedule is None:
        say(
            "L1 does not answer: whether the schedule names it is seen at the next run."
        )
    return judge_bundle(
        data,
        platform=config.platform,
        chain_id=home_chain(config),
        schedule=schedule,
        gramine=gramine,
    )
