"""An asyncio client of CometBFT's RPC, typed by the relay's parsers.

Nothing that it returns is verified: a node may lie. Verify with
:mod:`sealift.relay`.
"""

import asyncio
import io
import itertools
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp

from sealift.base import Height, SealiftError
from sealift.crypto import system_entropy
from sealift.relay import (
    LightBlock,
    RpcFormatError,
    RpcRemoteError,
    ValidatorSet,
    tx_hash,
)
from sealift.relay.rpc import (
    ABCI_QUERY,
    BLOCK_RESULT,
    BLOCK_RESULTS,
    BROADCAST,
    COMMIT_RESULT,
    GENESIS,
    MAX_REPLY_BYTES,
    NEW_BLOCK_QUERY,
    STATUS,
    SUBSCRIPTION,
    TX,
    VALIDATORS,
    AbciQueryResult,
    BlockResult,
    BlockResults,
    BroadcastResult,
    CommitResult,
    GenesisDoc,
    NewBlockEvent,
    RpcRequest,
    Shape,
    StatusResult,
    TxFound,
    parse_reply,
    render_request,
)

T = TypeVar("T")
#: ``jitter()`` gives a number from 0 to 1.
Jitter = Callable[[], float]
_PAGE: Final = 100
_MAX_VALIDATORS: Final = 10_000
_UNAVAILABLE: Final = frozenset({429, 502, 503, 504})
_PROOF_KIND: Final = "ics23:simple"
#: By this codespace a node says that it has to make that state first.
_BUSY: Final = "sealift/StateBusyError"
#: For about a minute it is asked again.
_BUSY_ATTEMPTS: Final = 80
_BUSY_PAUSE: Final = 1.0
_HEARTBEAT_SECONDS: Final = 20.0
#: How CometBFT says that a block is not executed yet.
_NO_RESULTS: Final = "could not find results for height"
_RESULTS_ATTEMPTS: Final = 30
_RESULTS_PAUSE: Final = 0.1


class NodeUnreachableError(SealiftError):
    """The L1 node does not answer at all, after all attempts."""


class NodeTimeoutError(NodeUnreachableError):
    """The L1 node took too long to answer."""


class TxRejectedError(SealiftError):
    """CheckTx refused a transaction; it is in no mempool."""


class TxNotIncludedError(SealiftError):
    """A transaction did not get into a block in time; it still may."""


class StateQueryError(SealiftError):
    """The node could not answer for that key and height."""


class StateNotAtHandError(StateQueryError):
    """The node has that state, long ago; after all attempts still not at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How often and how patiently a failed call is tried again.

    Attributes:
        attempts: Calls altogether, at least 1.
        first: Seconds before the second one.
        factor: Growth from one pause to the next.
        longest: Most seconds of a pause.
        jitter: Source of chance, so that many clients do not return at once.
    """

    attempts: int = 5
    first: float = 0.1
    factor: float = 2.0
    longest: float = 5.0
    jitter: Jitter

    def pause(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 0).

        Between half of the full pause and all of it.
        """
        full = min(self.longest, self.first * self.factor ** min(attempt, 64))
        return full * (0.5 + 0.5 * self.jitter())


def system_jitter() -> float:
    """A number from 0 to 1 from the operating system."""
    return int.from_bytes(system_entropy(4), "big") / (2**32 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEntry:
    """What a node says stands under a key; ``proof`` is for ``verify_state``.

    Attributes:
        key: The key that was asked for.
        value: ``None`` if the node says that nothing stands there.
        proof: ICS23 ``CommitmentProof``; empty if none was asked for.
        height: State after this block; header ``height + 1`` commits to it.
    """

    key: bytes
    value: bytes | None
    proof: bytes
    height: Height


class L1Client:
    """Calls one L1 node; use as ``async with L1Client(url, …) as l1``.

    Every reading call is tried again while the node cannot be reached;
    ``broadcast_tx_sync`` is too, because a copy of a transaction does no harm.

    Args:
        url: ``http://host:port``.
        backoff: How failed calls are tried again.
        timeout: Seconds for one answer.
    """

    def __init__(self, url: str, *, backoff: Backoff, timeout: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._backoff = backoff
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def url(self) -> str:
        """The node's address."""
        return self._url

    async def call(self, method: str, shape: Shape[T], **params: object) -> T:
        """One call of any method.

        Args:
            method: Name of the method.
            shape: What it answers.
            **params: Named parameters as plain JSON; ``None`` is left out.

        Raises:
            NodeUnreachableError: No answer after all attempts.
            NodeTimeoutError: The last attempt took too long.
            RpcRemoteError: The node refused.
            RpcFormatError: It answered something else.
        """
        request = RpcRequest(
            id=next(self._ids),
            method=method,
            params={name: value for name, value in params.items() if value is not None},
        )
        body = render_request(request)
        raw = await self._post_patiently(body)
        reply = parse_reply(raw)
        if reply.id != request.id and reply.error is None:
            raise RpcFormatError(
                "answer to another call", got=reply.id, expected=request.id
            )
        return shape.parse(reply.open())

    async def status(self) -> StatusResult:
        """Who the node is and how far."""
        return await self.call("status", STATUS)

    async def genesis(self) -> GenesisDoc:
        """How the chain started."""
        return await self.call("genesis", GENESIS)

    async def height(self) -> Height:
        """The newest block."""
        return (await self.status()).sync_info.latest_block_height

    async def block(self, height: Height | None = None) -> BlockResult:
        """A block; the newest if no height is given."""
        return await self.call("block", BLOCK_RESULT, height=_text(height))

    async def block_results(self, height: Height | None = None) -> BlockResults:
        """What executing a block gave.

        CometBFT tells of a block a moment before it has its results: it is asked
        again for about three seconds.

        Raises:
            RpcRemoteError: The node has not executed that block.
        """
        attempt = 0
        while True:
            try:
                return await self.call(
                    "block_results", BLOCK_RESULTS, height=_text(height)
                )
            except RpcRemoteError as error:
                attempt += 1
                if _NO_RESULTS not in str(error) or attempt >= _RESULTS_ATTEMPTS:
                    raise
            await asyncio.sleep(_RESULTS_PAUSE)

    async def commit(self, height: Height | None = None) -> CommitResult:
        """A header with its commit."""
        return await self.call("commit", COMMIT_RESULT, height=_text(height))

    async def validators(self, height: Height | None = None) -> ValidatorSet:
        """All validators of a height, page by page.

        Raises:
            RpcFormatError: The pages do not fit together.
        """
        found: list[ValidatorSet] = []
        count = 0
        for page in itertools.count(1):
            result = await self.call(
                "validators",
                VALIDATORS,
                height=_text(height),
                page=str(page),
                per_page=str(_PAGE),
            )
            found.append(result.validators)
            size = len(result.validators.validators)
            count += size
            if count == result.total:
                break
            if not size or count > min(result.total, _MAX_VALIDATORS):
                raise RpcFormatError(
                    "pages of validators do not fit together",
                    got=count,
                    expected=result.total,
                )
        return ValidatorSet(
            validators=tuple(one for part in found for one in part.validators)
        )

    async def light_block(self, height: Height) -> LightBlock:
        """What a relay needs of a height, with the next validators."""
        commit, now, following = await asyncio.gather(
            self.commit(height),
            self.validators(height),
            self._next_validators(height),
        )
        return LightBlock(
            signed_header=commit.signed_header,
            validators=now,
            next_validators=following,
        )

    async def _next_validators(self, height: Height) -> ValidatorSet | None:
        """Of the tip some nodes do not know them yet."""
        try:
            return await self.validators(Height(height + 1))
        except RpcRemoteError:
            return None

    async def abci_query(
        self, key: bytes, *, height: Height | None = None, prove: bool = True
    ) -> StateEntry:
        """What stands under a state key after a block.

        A state of long ago may take the node a while: it is asked again.

        Raises:
            StateNotAtHandError: It took longer than about a minute.
            StateQueryError: The node cannot answer, or sends no usable proof.
        """
        found = await self._query(key, height, prove=prove)
        attempt = 0
        while found.codespace == _BUSY:
            attempt += 1
            if attempt >= _BUSY_ATTEMPTS:
                raise StateNotAtHandError(
                    "the node is still busy with states of long ago",
                    got=found.log,
                    expected=f"state after block {height or 'newest'}",
                    hint="Ask again later, or ask a node of your own",
                )
            await asyncio.sleep(min(self._backoff.pause(attempt - 1), _BUSY_PAUSE))
            found = await self._query(key, height, prove=prove)
        if found.code != 0:
            raise StateQueryError(
                "state query refused",
                got=f"{found.log} ({found.codespace} {found.code})",
                expected=f"state after block {height or 'newest'}",
            )
        proofs = found.proof_ops or ()
        if prove and (len(proofs) != 1 or proofs[0].kind != _PROOF_KIND):
            raise StateQueryError(
                "state query came without its proof",
                got=", ".join(one.kind for one in proofs) or "none",
                expected=_PROOF_KIND,
            )
        return StateEntry(
            key=key,
            value=found.value if found.value or found.log == "exists" else None,
            proof=proofs[0].data if prove else b"",
            height=found.height,
        )

    async def _query(
        self, key: bytes, height: Height | None, *, prove: bool
    ) -> AbciQueryResult:
        return await self.call(
            "abci_query",
            ABCI_QUERY,
            path="/store",
            data=key.hex(),
            height=_text(height),
            prove=prove,
        )

    async def broadcast_tx_sync(self, tx: bytes) -> BroadcastResult:
        """Hand a transaction in; CheckTx has accepted it.

        Raises:
            TxRejectedError: CheckTx refused it.
        """
        result = await self.call(
            "broadcast_tx_sync", BROADCAST, tx=b64encode(tx).decode("ascii")
        )
        if result.code != 0:
            raise TxRejectedError(
                f"L1 refused the transaction ({result.codespace} {result.code})",
                got=result.log,
            )
        return result

    async def tx(self, digest: bytes, *, prove: bool = False) -> TxFound | None:
        """A transaction in a block, or ``None`` if none has it yet."""
        try:
            return await self.call(
                "tx", TX, hash=b64encode(digest).decode("ascii"), prove=prove
            )
        except RpcRemoteError as error:
            if "not found" in str(error):
                return None
            raise

    async def wait_for_tx(
        self, digest: bytes, *, within: float = 30.0, poll: float = 0.1
    ) -> TxFound:
        """Return when a transaction stands in a block.

        Args:
            digest: Its SHA-256.
            within: Most seconds to wait.
            poll: Seconds between two looks.

        Raises:
            TxNotIncludedError: Not within that time.
        """
        try:
            async with asyncio.timeout(within):
                while True:
                    found = await self.tx(digest)
                    if found is not None:
                        return found
                    await asyncio.sleep(poll)
        except TimeoutError as error:
            raise TxNotIncludedError(
                f"not in a block within {within} s",
                got=digest.hex(),
                hint="It may still be; look for it before sending another",
            ) from error

    async def submit(self, tx: bytes, *, within: float = 30.0) -> TxFound:
        """Hand a transaction in and wait until it stands in a block.

        The result may still be a failure: look at ``tx_result.code``.

        Raises:
            TxRejectedError: CheckTx refused it.
            TxNotIncludedError: Not within so many seconds.
        """
        await self.broadcast_tx_sync(tx)
        return await self.wait_for_tx(tx_hash(tx), within=within)

    async def new_blocks(self) -> AsyncIterator[NewBlockEvent]:
        """Every new block as the node tells it; reconnects without end.

        Blocks made while disconnected are **not** told: whoever needs each one
        reads heights, and takes this as the sign that there are more.

        Raises:
            RpcRemoteError: The node refuses the subscription.
        """
        failures = 0
        while True:
            try:
                async for event in self._subscription():
                    failures = 0
                    yield event
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(self._backoff.pause(failures))
            failures += 1

    async def _subscription(self) -> AsyncIterator[NewBlockEvent]:
        request = RpcRequest(
            id=next(self._ids), method="subscribe", params={"query": NEW_BLOCK_QUERY}
        )
        async with self._opened().ws_connect(
            f"{self._url}/websocket",
            heartbeat=_HEARTBEAT_SECONDS,
            max_msg_size=MAX_REPLY_BYTES,
        ) as socket:
            await socket.send_str(render_request(request).decode())
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                reply = parse_reply(message.data.encode())
                event = SUBSCRIPTION.parse(reply.open())
                if isinstance(event, NewBlockEvent):
                    yield event

    async def _post_patiently(self, body: bytes) -> bytes:
        attempt = 0
        while True:
            try:
                return await self._post(body)
            except NodeUnreachableError:
                attempt += 1
                if attempt >= self._backoff.attempts:
                    raise
            await asyncio.sleep(self._backoff.pause(attempt - 1))

    async def _post(self, body: bytes) -> bytes:
        try:
            async with self._opened().post(
                self._url,
                data=io.BytesIO(body),
                headers={"Content-Type": "application/json"},
                timeout=self._timeout,
            ) as response:
                if response.status in _UNAVAILABLE:
                    raise NodeUnreachableError(
                        f"the L1 node at {self._url} is not available",
                        got=f"HTTP {response.status}",
                    )
                return await _read_limited(response)
        except TimeoutError as error:
            raise NodeTimeoutError(
                f"the L1 node at {self._url} did not answer in time",
                expected=f"≤ {self._timeout.total} s",
                hint="Is it overloaded?",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeUnreachableError(
                f"the L1 node at {self._url} cannot be reached",
                got=str(error) or type(error).__name__,
                hint="Is it running? `sealift chain start` runs a local one",
            ) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout())
        return self._session


async def _read_limited(response: aiohttp.ClientResponse) -> bytes:
    parts = []
    size = 0
    async for part in response.content.iter_chunked(1 << 16):
        size += len(part)
        if size > MAX_REPLY_BYTES:
            raise RpcFormatError(
                "answer is too large",
                got=f"> {MAX_REPLY_BYTES} B",
                expected=f"≤ {MAX_REPLY_BYTES} B",
            )
        parts.append(part)
    return b"".join(parts)


def _text(height: Height | None) -> str | None:
    return None if height is None else str(height)
