"""Shard cards, keys and clients, as several commands open them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import aiohttp
import click
import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import Fingerprint, Height, MrSigner, ShardId, decode
from sealift.bundle import (
    Bundle,
    BundleFormatError,
    measure,
    parse_bundle,
    verify_bundle,
)
from sealift.client import (
    ProvenChain,
    ShardCard,
    ShardClient,
    Workers,
    make_card,
    open_client,
    read_card,
)
from sealift.crypto import system_entropy
from sealift.frame import RuntimeMetadata
from sealift.protocol import AttestationPolicy
from sealift.relay import TrustRoot
from sealift.transport.bundle_folder import read_bundle_file
from sealift.transport.files import read_json
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import system_jitter

from ._attest import PolicyFile
from ._params import PATH, open_l1, wall_clock

F = TypeVar("F", bound=Callable[..., object])
#: The platform kind that runs a bundle of a root's kind by its own measurement.
SIM_KIND = "insecure-sim"
_ATTEMPTS = 3
_METADATA = "metadata.bin"


class ShardPolicyFile(PolicyFile, frozen=True, kw_only=True):
    """An attestation policy of a shard: with what only a chain can judge."""

    max_age_blocks: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 100_000
    not_before: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0

    def policy(self) -> AttestationPolicy:
        """The policy, whole."""
        return msgspec.structs.replace(
            PolicyFile.policy(self),
            max_age_blocks=self.max_age_blocks,
            not_before=Height(self.not_before),
        )


card_option = click.option(
    "--card",
    type=PATH,
    required=True,
    envvar="SEALIFT_CARD",
    help="The shard card (or SEALIFT_CARD).",
)
payer_option = click.option(
    "--payer",
    type=PATH,
    envvar="SEALIFT_PAYER",
    help="Key of the L1 account that pays (default: a worker carries).",
)


def key_option(what: str) -> Callable[[F], F]:
    """``--key`` with a sentence on whose it is."""
    return click.option(
        "--key", type=PATH, required=True, envvar="SEALIFT_KEY", help=what
    )


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file.

    Raises:
        BundleFolderError, BundleFormatError: It cannot be read, or is none.
    """
    data = read_bundle_file(path)
    try:
        return parse_bundle(data)
    except BundleFormatError as error:
        raise type(error)(
            f"{path}: {error.what}",
            got=f"{len(data)} B" if isinstance(error.got, bytes) else error.got,
            expected=error.expected or "a file that `sealift build` wrote",
            hint=error.hint or "It may have been cut on its way: fetch it again.",
        ) from error


def code_of_bundle(bundle: Bundle) -> dict[str, Fingerprint]:
    """The fingerprint that a bundle itself has, by platform kind.

    Only under the simulator, and only if the bundle trusts one: else simulated
    instances would have places in a shard of real hardware. Under Gramine a bundle
    has another one, which is not in it.
    """
    if all(root.kind != SIM_KIND for root in bundle.manifest.attestation_roots):
        return {}
    return {SIM_KIND: measure(bundle.files).mrenclave}


def require_code(code: dict[str, Fingerprint], *, of_bundle: bool) -> None:
    """Return if there is any fingerprint.

    Args:
        code: By platform kind.
        of_bundle: Whether a bundle was given.

    Raises:
        click.UsageError: There is none.
    """
    if code:
        return
    if of_bundle:
        raise click.UsageError(
            "This bundle trusts no simulator, so that its own fingerprint counts "
            "nowhere. Give the one it has under Gramine (`sealift gramine "
            "fingerprint`): --code gramine-sgx=FINGERPRINT."
        )
    raise click.UsageError("Which code? Give --bundle, or --code.")


def vendor_identity(bundle: Bundle) -> tuple[MrSigner | None, int | None]:
    """Vendor and product of a signed bundle; nothing of one that is not signed.

    Raises:
        SigstructError: It is signed, but not for this content.
    """
    if bundle.sigstruct is None:
        return None, None
    signed = verify_bundle(bundle).sigstruct
    return signed.mrsigner, signed.isv_prod_id


def parse_code(words: tuple[str, ...]) -> dict[str, Fingerprint]:
    """Fingerprints given as ``KIND=HEX``."""
    code = {}
    for word in words:
        kind, _, text = word.partition("=")
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            digest = b""
        if len(digest) != 32:  # noqa: PLR2004 - a SHA-256
            raise click.BadParameter(
                f"{word!r} is not KIND=FINGERPRINT (64 hexadecimal digits)"
            )
        if kind in code:
            raise click.BadParameter(f"{kind} is given twice")
        code[kind] = Fingerprint(digest)
    return code


def read_policy(path: Path | None) -> AttestationPolicy | None:
    """The attestation policy in a file, if one is named.

    Raises:
        FileError: It cannot be read.
    """
    if path is None:
        return None
    return read_json(path, ShardPolicyFile, what="policy").policy()


def card_of_bundle(
    bundle: Bundle, *, shard: ShardId, l1: str, workers: tuple[str, ...]
) -> ShardCard:
    """A card for the users of a shard that runs a bundle.

    Raises:
        CardError: An address that is none.
    """
    chain_id, height, digest = bundle.manifest.l1.values()
    return make_card(
        shard=shard,
        trust_root=TrustRoot(chain_id=chain_id, height=height, header_hash=digest),
        l1=(l1,),
        workers=workers,
        anchors=tuple(
            TrustAnchor(kind=root.kind, root_der=root.certificate())
            for root in bundle.manifest.attestation_roots
        ),
        metadata=decode(RuntimeMetadata, bundle.files[_METADATA]),
    )


@asynccontextmanager
async def open_chain(card: Path | ShardCard) -> AsyncIterator[ProvenChain]:
    """L1, proven from a card's trust root on."""
    known = card if isinstance(card, ShardCard) else read_card(card)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_l1(url)) for url in known.l1]
        yield ProvenChain(known.root(), nodes, clock=wall_clock())


@asynccontextmanager
async def open_user(
    card: Path, key: Path, *, payer: Path | None = None, workers: tuple[str, ...] = ()
) -> AsyncIterator[ShardClient]:
    """A client of a shard from files."""
    known = read_card(card)
    secret = read_account_key(key)
    paying = None if payer is None else read_account_key(payer)
    async with open_client(
        known,
        secret,
        clock=wall_clock(),
        entropy=system_entropy,
        jitter=system_jitter,
        payer_secret=paying,
        workers=workers,
        attempts=_ATTEMPTS,
    ) as client:
        yield client


@asynccontextmanager
async def open_workers(
    card: ShardCard, urls: tuple[str, ...] = ()
) -> AsyncIterator[tuple[ProvenChain, Workers]]:
    """L1 and the workers of a card, without an account."""
    async with open_chain(card) as chain, aiohttp.ClientSession() as http:
        yield chain, Workers((*urls, *card.workers), http)
