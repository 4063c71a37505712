"""``sealift insecure-sim``: the simulated platform. It protects nobody."""

import asyncio
from pathlib import Path
from typing import get_args

import click

from sealift.crypto import system_entropy
from sealift.insecure_sim import (
    SimIntel,
    SimMachine,
    SimStateError,
    SimTcbStatus,
    pccs_app,
)
from sealift.transport.clock import unix_seconds
from sealift.transport.files import write_durably
from sealift.transport.http import serve
from sealift.transport.process import wait_for_stop

from ._errors import EXIT_INTERRUPTED
from ._output import emit, emit_rows, json_option, say
from ._params import PATH, run, wall_clock

_NOTICE = "insecure-sim protects nobody: it is for laptops, tests and rehearsals."


@click.group("insecure-sim")
def insecure_sim() -> None:
    r"""A simulated Intel and its machines, for rehearsal; it protects nobody.

    \b
    Example:
      sealift insecure-sim init sim
      sealift insecure-sim platform sim alpha
    """


@insecure_sim.command()
@click.argument("folder", type=PATH)
@json_option
def init(*, folder: Path, as_json: bool) -> None:
    r"""Make a simulated Intel; its root certificate goes to FOLDER/root.der.

    \b
    Example:
      sealift insecure-sim init sim
    """
    say(_NOTICE)
    intel = SimIntel(folder)
    root = folder / "root.der"
    write_durably(root, intel.root_der)
    emit(
        {"folder": str(folder), "root": str(root), "fmspc": intel.fmspc},
        as_json=as_json,
    )


@insecure_sim.command()
@click.argument("folder", type=PATH)
@click.argument("machine", required=False)
@click.option("--update", is_flag=True, help="Install the newest microcode and QE.")
@click.option(
    "--debug/--no-debug", default=None, help="Whether its enclaves are debug ones."
)
@json_option
def platform(
    *,
    folder: Path,
    machine: str | None,
    update: bool,
    debug: bool | None,
    as_json: bool,
) -> None:
    r"""Make or change a simulated MACHINE; without one, list them.

    \b
    Examples:
      sealift insecure-sim platform sim
      sealift insecure-sim platform sim alpha --update
    """
    intel = existing_intel(folder)
    if machine is None:
        rows = [_row(intel, name) for name in intel.machines()]
        emit_rows("machines", rows, as_json=as_json)
        return
    found = SimMachine(intel, machine, entropy=system_entropy)
    if update:
        state = intel.state()
        found.install_microcode(state.levels[0].cpu_svn)
        found.install_qe(state.qe_levels[0].isv_svn)
    if debug is not None:
        found.set_debug(debug=debug)
    emit(_row(intel, machine), as_json=as_json)


@insecure_sim.command("tcb-recovery")
@click.argument("folder", type=PATH)
@click.option(
    "--advisory", "advisories", multiple=True, help="E.g. INTEL-SA-00001; repeatable."
)
@click.option("--qe", is_flag=True, help="The quoting enclave instead of microcode.")
@click.option(
    "--status",
    type=click.Choice(get_args(SimTcbStatus)),
    help="Instead: say what the newest TCB level is worth.",
)
@json_option
def tcb_recovery(
    *,
    folder: Path,
    advisories: tuple[str, ...],
    qe: bool,
    status: SimTcbStatus | None,
    as_json: bool,
) -> None:
    r"""Publish a vulnerability: machines are OutOfDate until they update.

    \b
    Example:
      sealift insecure-sim tcb-recovery sim --advisory INTEL-SA-00001
    """
    intel = existing_intel(folder)
    now = unix_seconds(wall_clock())
    answer: dict[str, object] = {}
    if status is not None:
        intel.set_tcb_status(status, advisories=advisories)
        answer["status"] = status
    elif qe:
        answer["qe_svn"] = intel.qe_recovery(now=now, advisories=advisories)
    else:
        answer["cpu_svn"] = intel.tcb_recovery(now=now, advisories=advisories)
    answer["tcb_evaluation_data_number"] = intel.state().evaluation
    say("Workers bring the new collateral to L1 when they attest again.")
    emit(answer, as_json=as_json)


@insecure_sim.command()
@click.argument("folder", type=PATH)
@click.argument("machine", required=False)
@click.option("--platform-ca", is_flag=True, help="Revoke the CA of all machines.")
@json_option
def revoke(
    *, folder: Path, machine: str | None, platform_ca: bool, as_json: bool
) -> None:
    r"""Put a machine's PCK certificate on the revocation list.

    \b
    Example:
      sealift insecure-sim revoke sim alpha
    """
    if (machine is None) == (not platform_ca):
        raise click.UsageError("Give MACHINE, or --platform-ca.")
    intel = existing_intel(folder)
    if machine is None:
        intel.revoke_platform_ca()
    else:
        _known(intel, machine).revoke()
    emit(
        {
            "revoked": machine or "the PCK platform CA",
            "crl_number": intel.state().crl_number,
        },
        as_json=as_json,
    )


@insecure_sim.command()
@click.argument("folder", type=PATH)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, help="0: a free one."
)
@click.pass_context
def pccs(ctx: click.Context, *, folder: Path, host: str, port: int) -> None:
    r"""Serve the simulated Intel's collateral as a PCCS does, until Ctrl-C.

    Prints one line when it answers: "ready URL".

    \b
    Example:
      sealift insecure-sim pccs sim --port 8081
    """
    intel = existing_intel(folder)
    say(_NOTICE)
    run(_serve_pccs(intel, host, port))
    ctx.exit(EXIT_INTERRUPTED)


async def _serve_pccs(intel: SimIntel, host: str, port: int) -> None:
    clock = wall_clock()
    app = pccs_app(intel, now=lambda: unix_seconds(clock))
    stopped = asyncio.create_task(wait_for_stop())
    async with serve(app, host=host, port=port) as where:
        click.echo(f"ready {where.url}")
        await stopped


def existing_intel(folder: Path) -> SimIntel:
    """The simulated Intel of a folder that has one.

    Raises:
        SimStateError: It has none.
    """
    if not (folder / "intel.json").is_file():
        raise SimStateError(
            "no simulated Intel is here",
            got=str(folder),
            hint="`sealift insecure-sim init` makes one",
        )
    return SimIntel(folder)


def _known(intel: SimIntel, name: str) -> SimMachine:
    if name not in intel.machines():
        raise SimStateError(
            "no such simulated machine", got=name, expected=", ".join(intel.machines())
        )
    return SimMachine(intel, name, entropy=system_entropy)


def _row(intel: SimIntel, name: str) -> dict[str, object]:
    state = _known(intel, name).state()
    levels = {level.cpu_svn: level.status for level in intel.state().levels}
    return {
        "machine": name,
        "cpu_svn": state.cpu_svn,
        "qe_svn": state.qe_svn,
        "tcb_status": levels.get(state.cpu_svn, "unknown"),
        "debug": state.debug,
    }
