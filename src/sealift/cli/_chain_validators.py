"""``sealift chain validators`` and ``set-validator``: who orders the chain."""

import binascii
from pathlib import Path

import click
import msgspec

from sealift.base import SealiftError, parse_hex
from sealift.ledger import Absences, Offence, ledger_call
from sealift.relay import Validator, ValidatorSet
from sealift.transport.account import L1Account
from sealift.transport.keys import read_account_key

from ._output import emit, emit_sections, json_option
from ._params import NUMBER, PATH, entry_of, open_l1, rpc_option, run

_KEY_TYPE = "tendermint/PubKeyEd25519"
_KEY_BYTES = 32


class _PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    value: bytes


class _KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    pub_key: _PublicKey


class ValidatorKeyParam(click.ParamType[bytes]):
    """An Ed25519 key: hexadecimal, base64, or CometBFT's priv_validator_key.json."""

    name = "pubkey"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        """The 32 bytes."""
        if isinstance(value, bytes):
            return value
        text = str(value)
        key = _from_text(text) or _from_file(Path(text))
        if key is None:
            self.fail(
                f"{text[:80]!r} is no Ed25519 public key (64 hexadecimal digits, or "
                "base64) and no priv_validator_key.json of CometBFT with one",
                param,
                ctx,
            )
        return key


def _from_text(text: str) -> bytes | None:
    try:
        return parse_hex(text)
    except SealiftError:
        pass
    try:
        raw = binascii.a2b_base64(text.encode(), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        return None
    return raw if len(raw) == _KEY_BYTES else None


def _from_file(path: Path) -> bytes | None:
    """The public part; the private one is skipped, and kept nowhere."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_KeyFile).pub_key
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    fits = found.type == _KEY_TYPE and len(found.value) == _KEY_BYTES
    return found.value if fits else None


@click.command()
@rpc_option
@json_option
def validators(*, rpc: str, as_json: bool) -> None:
    r"""Who orders the chain, and what is decided but not yet in force.

    As the node says. A change orders blocks two heights after its own; "coming"
    is the power from then on. "missed": blocks in a row that it did not sign.

    \b
    Example:
      sealift chain validators --rpc http://127.0.0.1:26657
    """
    answer, rows = run(_list(rpc))
    emit_sections(answer, {"validators": rows}, as_json=as_json)


@click.command("set-validator")
@click.argument("public_key", metavar="PUBKEY", type=ValidatorKeyParam())
@click.argument("power", type=NUMBER)
@click.option(
    "--key",
    type=PATH,
    required=True,
    envvar="SEALIFT_KEY",
    help="The root key (sudo) of the chain.",
)
@rpc_option
@json_option
def set_validator(
    *, public_key: bytes, power: int, key: Path, rpc: str, as_json: bool
) -> None:
    r"""Give PUBKEY so much voting power; 0 removes it. Root only.

    At most a third of the power may change in a block: go in steps. The node of a
    new validator should run before it has power.

    \b
    Examples:
      sealift chain set-validator node4/config/priv_validator_key.json 5 \
        --key chain/keys/sudo.json
      sealift chain set-validator 3b6a…29 0 --key chain/keys/sudo.json
    """
    emit(run(_set(rpc, public_key, power, key)), as_json=as_json)


async def _list(rpc: str) -> tuple[dict[str, object], list[dict[str, object]]]:
    async with open_l1(rpc) as l1:
        height = await l1.height()
        now = await l1.validators(height)
        coming = await entry_of(l1, ValidatorSet, "validators", "coming") or now
        absences = await entry_of(l1, Absences, "validators", "absences")
        missed = (
            {} if absences is None else {one.address: one for one in absences.entries}
        )
        powers = {one.public_key: one.power for one in now.validators}
        after = {one.public_key: one.power for one in coming.validators}
        rows: list[dict[str, object]] = []
        for key in dict.fromkeys((*powers, *after)):
            address = Validator(public_key=key, power=1).address
            offence = await entry_of(l1, Offence, "validators", "offences", address)
            rows.append(
                {
                    "address": address.hex().upper(),
                    "public_key": key,
                    "power": powers.get(key, 0),
                    "coming": after.get(key, 0),
                    "missed": missed[address].blocks if address in missed else 0,
                    "offences": 0 if offence is None else offence.count,
                }
            )
    answer: dict[str, object] = {
        "height": height,
        "total_power": now.total_power,
        "pending": powers != after,
    }
    return answer, rows


async def _set(rpc: str, public_key: bytes, power: int, key: Path) -> dict[str, object]:
    secret = read_account_key(key)
    inner = ledger_call("validators.set_validator", public_key=public_key, power=power)
    async with open_l1(rpc) as l1:
        status = await l1.status()
        account = L1Account(secret, l1, status.node_info.network)
        done = await account.act("sudo.sudo", {"call": inner})
    return {
        "public_key": public_key,
        "power": power,
        "decided_in_block": done.height,
        "orders_from_block": done.height + 2,
    }
