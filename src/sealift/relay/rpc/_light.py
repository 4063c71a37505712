"""Light blocks in JSON, as CometBFT's RPC and the light client's vectors have them.

Three quirks of such files are read as what they mean (shared/vectors README):
validators stand in any order and are sorted as they are hashed; the parts of a
block id may be called ``part_set_header``; signatures that are absent may carry
1970-01-01 where Go writes its zero time. Nothing else is repaired.
"""

from typing import Final

import msgspec
from msgspec.structs import replace

from sealift.base import Message
from sealift.relay._errors import RpcFormatError
from sealift.relay._types import (
    FLAG_ABSENT,
    ZERO_TIME,
    Commit,
    Header,
    LightBlock,
    SignedHeader,
    Timestamp,
    ValidatorSet,
)

from ._chain import COMMIT, HEADER, VALIDATOR
from ._shapes import Shape, many, wrong

#: Most bytes of a file: 10,000 validators and their signatures have 4 MB.
MAX_LIGHT_BYTES: Final = 16 * 1024 * 1024
_UNIX_ZERO: Final = Timestamp(seconds=0)


class TrustedStep(Message, kw_only=True):
    """What a single step is judged from: a header, and the set it announced."""

    header: Header
    next_validators: ValidatorSet


def decode_light_json(raw: bytes) -> object:
    """The JSON of a file, out of its RPC envelope if it has one.

    Raises:
        RpcFormatError: Not JSON, or too large.
    """
    if len(raw) > MAX_LIGHT_BYTES:
        raise RpcFormatError(
            "JSON is too large", got=f"{len(raw)} B", expected=f"≤ {MAX_LIGHT_BYTES} B"
        )
    try:
        value: object = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError) as error:
        raise RpcFormatError(f"not JSON ({error})", got=raw[:80]) from error
    if isinstance(value, dict) and isinstance(value.get("result"), dict):
        return value["result"]
    return value


def _read_trusted(value: object, where: str) -> TrustedStep:
    found = _with_signed_header(value, where)
    signed = _read_signed(found.get("signed_header"), f"{where}signed_header")
    return TrustedStep(
        header=signed.header,
        next_validators=_read_set(
            found.get("next_validator_set"), f"{where}next_validator_set"
        ),
    )


def _read_light(value: object, where: str) -> LightBlock:
    found = _with_signed_header(value, where)
    following = found.get("next_validator_set")
    return LightBlock(
        signed_header=_read_signed(found.get("signed_header"), f"{where}signed_header"),
        validators=_read_set(found.get("validator_set"), f"{where}validator_set"),
        next_validators=None
        if following is None
        else _read_set(following, f"{where}next_validator_set"),
    )


def _with_signed_header(value: object, where: str) -> dict[str, object]:
    """``/signed_block`` of some chains has header and commit side by side."""
    found = _object(value, where)
    if "signed_header" not in found and "header" in found and "commit" in found:
        signed = {"header": found["header"], "commit": found["commit"]}
        return {**found, "signed_header": signed}
    return found


def _read_signed(value: object, where: str) -> SignedHeader:
    found = _object(value, where)
    header = dict(_object(found.get("header"), f"{where}.header"))
    if header.get("last_block_id") is not None:
        header["last_block_id"] = _block_id(
            header["last_block_id"], f"{where}.header.last_block_id"
        )
    commit = dict(_object(found.get("commit"), f"{where}.commit"))
    commit["block_id"] = _block_id(commit.get("block_id"), f"{where}.commit.block_id")
    return SignedHeader(
        header=HEADER.read(header, f"{where}.header"),
        commit=_without_unix_zero(COMMIT.read(commit, f"{where}.commit")),
    )


def _block_id(value: object, where: str) -> object:
    found = _object(value, where)
    if "parts" in found or "part_set_header" not in found:
        return found
    return {"hash": found.get("hash"), "parts": found["part_set_header"]}


def _without_unix_zero(commit: Commit) -> Commit:
    return replace(
        commit,
        signatures=tuple(
            replace(sig, timestamp=ZERO_TIME)
            if sig.flag == FLAG_ABSENT and sig.timestamp == _UNIX_ZERO
            else sig
            for sig in commit.signatures
        ),
    )


def _read_set(value: object, where: str) -> ValidatorSet:
    listed = value
    if isinstance(value, dict):
        listed, where = value.get("validators"), f"{where}.validators"
    return ValidatorSet.sorted(many(VALIDATOR).read(listed, where))


def _write_set(value: ValidatorSet) -> object:
    return {
        "validators": many(VALIDATOR).write(value.validators),
        "total_voting_power": str(value.total_power),
    }


def _write_light(value: LightBlock) -> object:
    out: dict[str, object] = {
        "signed_header": {
            "header": HEADER.write(value.header),
            "commit": COMMIT.write(value.commit),
        },
        "validator_set": _write_set(value.validators),
    }
    if value.next_validators is not None:
        out["next_validator_set"] = _write_set(value.next_validators)
    return out


def _write_trusted(value: TrustedStep) -> object:
    return {
        "signed_header": {"header": HEADER.write(value.header)},
        "next_validator_set": _write_set(value.next_validators),
    }


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise wrong(where, value, "an object")
    return value


#: ``{signed_header, validator_set, next_validator_set?}``.
LIGHT_BLOCK: Final = Shape(_read_light, _write_light)
#: ``{signed_header, next_validator_set}``; the commit inside is not judged.
TRUSTED_STEP: Final = Shape(_read_trusted, _write_trusted)
