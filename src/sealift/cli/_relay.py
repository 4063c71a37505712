"""``sealift relay``: what the chain relay says of single steps.

The verdict is the exit code, so wrong usage has one of its own here: 64.
"""

import re
from pathlib import Path
from typing import Final, NoReturn

import click
import msgspec

from sealift.base import SealiftError
from sealift.relay import (
    Header,
    LightBlock,
    NotEnoughTrustError,
    RelayRules,
    Timestamp,
    header_hash,
    verify_step,
)
from sealift.relay.rpc import (
    EVIDENCE_FILE,
    HEADER,
    LIGHT_BLOCK,
    TRUSTED_STEP,
    TrustedStep,
    decode_light_json,
)
from sealift.transport.files import FileError, read_json, read_or_explain

from ._output import emit, json_option
from ._params import PATH, TIME

#: Wrong words, or a file that is not there or no JSON (BSD's ``EX_USAGE``).
EXIT_WRONG_USE: Final = 64
#: Trust does not reach so far: a header between may help.
EXIT_NOT_ENOUGH_TRUST: Final = 2
_EXITS: Final = {"success": 0, "invalid": 1, "not-enough-trust": EXIT_NOT_ENOUGH_TRUST}
_MOST_SECONDS: Final = 2**40
_MOST_OF_FRACTION: Final = 2**16
_LEVEL = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)


class _JudgingCommand(click.Command):
    """A command whose exit codes 1 and 2 are verdicts: mistakes of use exit with 64."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(EXIT_WRONG_USE) from error

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(EXIT_WRONG_USE) from error


class TrustLevel(click.ParamType[tuple[int, int]]):
    """A fraction N/D from 1/3 to 1."""

    name = "n/d"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Numerator and denominator."""
        match = _LEVEL.fullmatch(str(value))
        if match is None:
            self.fail(f"{str(value)[:40]!r} is no fraction like 1/3", param, ctx)
        over, under = int(match[1]), int(match[2])
        if under > _MOST_OF_FRACTION or not under <= 3 * over <= 3 * under or not over:
            self.fail(
                f"{over}/{under} is not from 1/3 to 1, over at most "
                f"{_MOST_OF_FRACTION}",
                param,
                ctx,
            )
        return over, under


@click.group()
def relay() -> None:
    r"""The chain relay's rules, for single steps.

    \b
    Example:
      sealift relay verify --trusted trusted.json --untrusted block.json \
        --now 2026-11-23T05:00:00Z --trusting-period 1209600 --trust-level 1/3
    """


@relay.command(cls=_JudgingCommand)
@click.option(
    "--trusted",
    type=PATH,
    required=True,
    help="JSON of what is trusted: signed_header, next_validator_set.",
)
@click.option(
    "--untrusted",
    type=PATH,
    required=True,
    help="JSON of what is judged: signed_header, validator_set.",
)
@click.option(
    "--now", type=TIME, required=True, help="When to judge: RFC 3339 or Unix seconds."
)
@click.option(
    "--trusting-period",
    "trusting_period",
    type=click.IntRange(0, _MOST_SECONDS),
    required=True,
    metavar="SECONDS",
    help="How long a header stays trusted.",
)
@click.option(
    "--trust-level",
    "trust_level",
    type=TrustLevel(),
    required=True,
    metavar="N/D",
    help="How much of the trusted power must have signed, from 1/3 to 1.",
)
@click.option(
    "--clock-drift",
    "clock_drift",
    type=click.IntRange(0, _MOST_SECONDS),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="How far a header may lie in the future.",
)
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    trusted: Path,
    untrusted: Path,
    now: Timestamp,
    trusting_period: int,
    trust_level: tuple[int, int],
    clock_drift: int,
    as_json: bool,
) -> None:
    r"""Judge one step of a light client on CometBFT's JSON.

    The trusted file is believed; the untrusted one is judged by the rules of the
    chain relay: a later header, of the same chain, signed by its validators, in
    time, and vouched for by enough of the trusted next validators (or, right
    after the trusted header, by exactly those that it announced).

    Exit codes: 0 success, 1 invalid, 2 not enough trust (a header between may
    help), 64 wrong usage: a missing file, not JSON, a trust level that is none.

    \b
    Example:
      sealift relay verify --trusted trusted.json --untrusted block.json \
        --now 1795410000 --trusting-period 1209600 --trust-level 1/3 --json
    """
    known, shown = _json(trusted, "--trusted"), _json(untrusted, "--untrusted")
    rules = RelayRules(
        trusting_period=trusting_period,
        clock_drift=clock_drift,
        trust_numerator=trust_level[0],
        trust_denominator=trust_level[1],
    )
    try:
        start: TrustedStep = TRUSTED_STEP.parse(known)
        block: LightBlock = LIGHT_BLOCK.parse(shown)
        verified = verify_step(
            start.header, start.next_validators, block, rules=rules, now=now
        )
    except NotEnoughTrustError as error:
        _say(ctx, "not-enough-trust", f"{error.code}: {error}", as_json=as_json)
    except SealiftError as error:
        _say(ctx, "invalid", f"{error.code}: {error}", as_json=as_json)
    near = "the next" if verified.height == start.header.height + 1 else "a later"
    reason = (
        f"header {verified.height} ({verified.hash.hex()}) is {near} one after "
        f"{start.header.height} of {verified.chain_id}"
    )
    _say(ctx, "success", reason, as_json=as_json)


@relay.command()
@click.argument("home", type=PATH)
@json_option
def evidence(*, home: Path, as_json: bool) -> None:
    r"""Show what made the enclave of a worker's HOME stop: two signed headers.

    With --json the whole evidence, in the form of CometBFT's
    LightClientAttackEvidence, with the header that was trusted beside it.

    \b
    Example:
      sealift relay evidence w1 --json > attack.json
    """
    path = home / EVIDENCE_FILE
    shown = read_json(
        path,
        _AttackFile,
        what="evidence of a fork",
        hint="There is none unless the worker has said that the chain has forked.",
    )
    if as_json:
        click.echo(read_or_explain(path, what="evidence of a fork"))
        return
    trusted: Header = HEADER.parse(shown.trusted_header)
    other: LightBlock = LIGHT_BLOCK.parse(shown.value.conflicting_block)
    blamed = [validator.address for validator in shown.value.byzantine_validators]
    emit(
        {
            "chain_id": trusted.chain_id,
            "trusted": f"{trusted.height} {header_hash(trusted).hex()}",
            "conflicting": f"{other.header.height} {header_hash(other.header).hex()}",
            "common_height": shown.value.common_height,
            "byzantine_validators": blamed,
        },
        as_json=False,
    )


class _Blamed(msgspec.Struct, frozen=True, kw_only=True):
    address: str


class _Attack(msgspec.Struct, frozen=True, kw_only=True):
    conflicting_block: dict[str, object]
    common_height: str
    byzantine_validators: tuple[_Blamed, ...]


class _AttackFile(msgspec.Struct, frozen=True, kw_only=True):
    value: _Attack
    trusted_header: dict[str, object]


def _json(path: Path, option: str) -> object:
    """The JSON of a file; whatever is none is a mistake of whoever names it."""
    try:
        return decode_light_json(read_or_explain(path, what=f"file of {option}"))
    except FileError as error:
        raise click.UsageError(f"{option}: {error}") from error
    except SealiftError as error:
        raise click.UsageError(f"{option}: {path}: {error}") from error


def _say(ctx: click.Context, verdict: str, reason: str, *, as_json: bool) -> NoReturn:
    emit({"verdict": verdict, "reason": reason}, as_json=as_json)
    ctx.exit(_EXITS[verdict])
