"""One block while it is executed: its items, one after the other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from sealift.base import CallId, Digest, Fingerprint, Nonce, decode, encode
from sealift.frame import (
    ROOT,
    BlockInfo,
    CallFailure,
    CallGuard,
    CallPanickedError,
    EmittedEvent,
    HooksOutcome,
    Outcome,
    Overlay,
    Runtime,
    RuntimeCall,
    Signed,
    UnknownCallError,
    WeightExceededError,
    WeightMeter,
)
from sealift.protocol import Effect, Receipt, SignedOrder

from ._admission import check_admission, check_room
from ._balances import Balances
from ._block import (
    BlockCounts,
    CallReceipt,
    DepositOutcome,
    Item,
    Limits,
    ShieldedFunds,
)
from ._effects import EffectIssued, Effects
from ._enclave_update import EnclaveUpdate, OrderIssued
from ._errors import CallRefusedError
from ._opening import OpenedCall, RefusedCall
from ._system import ExecutedCall, RememberedReceipt, System
from ._timestamp import Timestamp

#: ``Receipt.outcome`` of a call that took effect.
OK = "ok"
_ORDER_EVENT = f"{EnclaveUpdate.name}.{OrderIssued.__name__}"
_EFFECT_EVENT = f"{Effects.name}.{EffectIssued.__name__}"
_EFFECT = cast("type[Effect]", Effect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """What stays the same from block to block.

    ``sentences`` explains error codes: the text of a failure is not fit for
    consensus (it may show addresses or sets), the docstring of its class is.
    """

    runtime: Runtime
    system: System
    timestamp: Timestamp
    balances: Balances
    enclave_update: EnclaveUpdate
    effects: Effects
    escapes: frozenset[str]
    sentences: Mapping[str, str]
    limits: Limits


class BlockRun:
    """The items of one block, and what they came to.

    Args:
        bench: The executor's fixed parts.
        overlay: The block's overlay.
        info: The block.
        maintenance: Whether all calls but escapes are refused.
        code: Every MRENCLAVE of the generation that runs the block.
    """

    def __init__(
        self,
        bench: Workbench,
        overlay: Overlay,
        info: BlockInfo,
        *,
        maintenance: bool,
        code: frozenset[Fingerprint],
    ) -> None:
        self._bench = bench
        self._overlay = overlay
        self._info = info
        self._maintenance = maintenance
        self._code = code
        self._ctx = bench.runtime.context(overlay, info, ROOT)
        self._receipts_by_call: dict[CallId, Receipt] = {}
        self._executed: list[ExecutedCall] = []
        self._tally = {"succeeded": 0, "failed": 0, "refused": 0, "copies": 0}
        self._told_left = bench.limits.told_bytes
        self.meter = WeightMeter(bench.limits.block_weight)
        self.receipts: list[CallReceipt] = []
        self.deposits: list[DepositOutcome] = []
        self.orders: list[SignedOrder] = []
        self.effects: list[Effect] = []
        self.events: list[EmittedEvent] = []
        self.hook_failures: list[tuple[str, CallFailure]] = []

    @property
    def counts(self) -> BlockCounts:
        """How many of what, so far."""
        return BlockCounts(
            calls=len(self.receipts), deposits=len(self.deposits), **self._tally
        )

    def initialize(self) -> None:
        """Run the first hooks."""
        self._note_hooks(
            self._bench.runtime.initialize_block(
                self._overlay, self._info, WeightMeter(self._bench.limits.hook_weight)
            )
        )

    def finalize(self) -> None:
        """Remember the receipts, then run the last hooks."""
        self._bench.system.remember(self._ctx, self._executed)
        self._note_hooks(
            self._bench.runtime.finalize_block(
                self._overlay, self._info, WeightMeter(self._bench.limits.hook_weight)
            )
        )

    def take(self, index: int, item: Item) -> None:
        """Execute the item at a position of the block; never raises for it."""
        if isinstance(item, OpenedCall):
            self._call(index, item)
        elif isinstance(item, RefusedCall):
            self._refuse(index, item)
        else:
            self._deposit(item)

    def _call(self, index: int, call: OpenedCall) -> None:
        """A call: copy, refused, or executed.

        1. A copy of a call that was executed yields the first one's receipt.
        2. A call that may not consume its nonce is refused.
        3. A call that finds too little weight is refused.
        4. All others consume their nonce, whatever comes of them.
        """
        body = call.body
        nonce = self._bench.system.account(self._ctx, body.signer).nonce
        if body.nonce < nonce:  # 1
            first = self._first_receipt(call.call_id)
            if first is not None:
                self._book(call.envelope, call.body.reply_key, first, "copies")
                return
        try:
            check_admission(  # 2
                body,
                nonce=nonce,
                height=self._info.height,
                maintenance=self._maintenance,
                code=self._code,
                escapes=self._bench.escapes,
            )
            outcome = self._dispatch(call)  # 3
        except CallRefusedError as refusal:
            self._book(
                call.envelope,
                body.reply_key,
                self._receipt(call.call_id, index, refusal.code, str(refusal)),
                "refused",
            )
            return
        self._consume(index, call, outcome)  # 4

    def _first_receipt(self, call_id: CallId) -> Receipt | None:
        here = self._receipts_by_call.get(call_id)
        if here is not None:
            return here
        earlier = self._bench.system.remembered(self._ctx, call_id)
        if earlier is None:
            return None
        return Receipt(
            call_id=call_id,
            height=earlier.height,
            index=earlier.index,
            outcome=earlier.outcome,
        )

    def _dispatch(self, call: OpenedCall) -> Outcome:
        """Run a call within its own limit and what the block has left.

        Raises:
            BlockFullError: It would have run in an emptier block.
        """
        limits = self._bench.limits
        wanted = RuntimeCall(name=call.body.call, args=call.body.args)
        left = self.meter.left - limits.base_weight
        check_room(min(self._declared(wanted), limits.call_weight), left=left)
        meter = WeightMeter(min(limits.call_weight, left))
        outcome = self._bench.runtime.dispatch(
            self._overlay,
            self._info,
            Signed(account=call.body.signer),
            wanted,
            meter=meter,
        )
        self.meter.charge(limits.base_weight + meter.used)
        if (
            outcome.failure is not None
            and outcome.failure.code == WeightExceededError.code
        ):
            check_room(limits.call_weight, left=left)
        return outcome

    def _declared(self, call: RuntimeCall) -> int:
        try:
            return self._bench.runtime.call_weight(call)
        except UnknownCallError:
            return 0

    def _consume(self, index: int, call: OpenedCall, outcome: Outcome) -> None:
        system, body = self._bench.system, call.body
        account = system.account(self._ctx, body.signer)
        system.put_account(
            self._ctx,
            body.signer,
            msgspec.structs.replace(account, nonce=Nonce(body.nonce + 1)),
        )
        if outcome.failure is None:
            told = self._take_out(outcome.events)
            receipt = self._receipt(
                call.call_id, index, OK, "", [encode(event) for event in told]
            )
        else:
            receipt = self._receipt(
                call.call_id, index, outcome.failure.code, self._say(outcome.failure)
            )
        self._receipts_by_call[call.call_id] = receipt
        self._executed.append(
            ExecutedCall(
                call_id=call.call_id,
                valid_until=body.valid_until,
                receipt=RememberedReceipt(
                    signer=body.signer,
                    height=receipt.height,
                    index=index,
                    outcome=receipt.outcome,
                ),
            )
        )
        kind = "failed" if outcome.failure else "succeeded"
        self._book(call.envelope, body.reply_key, receipt, kind)

    def _refuse(self, index: int, call: RefusedCall) -> None:
        receipt = self._receipt(call.call_id, index, call.code, call.message)
        self._book(call.envelope, call.reply_key, receipt, "refused")

    def _deposit(self, deposit: ShieldedFunds) -> None:
        layer = self._overlay.child()
        ctx = self._bench.runtime.context(layer, self._info, ROOT)
        guard = CallGuard()
        with guard:
            self._bench.balances.deposit(ctx, deposit.beneficiary, deposit.amount)
        if guard.failure is None:
            layer.commit_to(self._overlay)
            self.events.extend(ctx.emitted)
        self.deposits.append(DepositOutcome(deposit=deposit, failure=guard.failure))

    def _receipt(
        self,
        call_id: CallId,
        index: int,
        outcome: str,
        message: str,
        events: Iterable[bytes] = (),
    ) -> Receipt:
        return Receipt(
            call_id=call_id,
            height=self._info.height,
            index=index,
            outcome=outcome,
            message=message,
            events=tuple(events),
        )

    def _book(
        self, envelope: Digest, reply_key: bytes | None, receipt: Receipt, kind: str
    ) -> None:
        self._tally[kind] += 1
        size = sum(map(len, receipt.events))
        if size > self._told_left:
            receipt = msgspec.structs.replace(receipt, events=())
        else:
            self._told_left -= size
        self.receipts.append(
            CallReceipt(envelope=envelope, reply_key=reply_key, receipt=receipt)
        )

    def _say(self, failure: CallFailure) -> str:
        if failure.code == CallPanickedError.code:
            return failure.message  # the name of an exception's class
        return self._bench.sentences.get(failure.code, "")

    def _note_hooks(self, outcome: HooksOutcome) -> None:
        self.events.extend(self._take_out(outcome.events))
        self.hook_failures.extend(outcome.failures)

    def _take_out(self, events: Iterable[EmittedEvent]) -> list[EmittedEvent]:
        """Note orders and effects; the events that are told, effects apart."""
        told = []
        for event in events:
            if event.name == _EFFECT_EVENT:
                self.effects.append(
                    decode(_EFFECT, decode(EffectIssued, event.data).effect)
                )
                continue
            if event.name == _ORDER_EVENT:
                issued = decode(OrderIssued, event.data)
                self.orders.append(decode(SignedOrder, issued.order))
            told.append(event)
        return told
