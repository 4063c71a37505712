"""The one door: one frame in, one frame out (DESIGN §3)."""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from sealift.attestation import (
    Failure,
    Rule,
    TrustAnchor,
    TrustAnchorError,
    parse_trust_anchor,
)
from sealift.base import (
    InvariantError,
    Message,
    SealiftError,
    decode,
    encode,
)
from sealift.bundle import AttestationRoot, Manifest
from sealift.crypto import Entropy
from sealift.frame import Runtime
from sealift.protocol.audit import (
    AuditBegin,
    AuditBegun,
    AuditMore,
    AuditNext,
    AuditOpen,
    AuditOpened,
    AuditTake,
    AuditWork,
)
from sealift.protocol.ecall import (
    ECALLS,
    MAX_FRAME_BYTES,
    Ask,
    AuditAdmit,
    AuditPresent,
    BornKeys,
    CloseSession,
    Confirm,
    DiffApply,
    DumpRa,
    Execute,
    FeedSession,
    Genesis,
    GetEvidence,
    GetStatus,
    Hello,
    HelloReply,
    HoldKeys,
    ImportBlock,
    OpenSession,
    ProveSession,
    Refused,
    Register,
    Rehearse,
    Request,
    ShowConflict,
    SkipTo,
    SnapshotBegin,
    SnapshotCheck,
    SnapshotCheckChunk,
    SnapshotChunk,
    SnapshotDrop,
    SnapshotGet,
    SpeakEffects,
    StageKeys,
    Start,
    Started,
)

from ._audit import Auditor
from ._auditee import Auditee
from ._birth import born_keys, load_genesis
from ._errors import (
    AlreadyStartedError,
    AuditRoleError,
    NotStartedError,
    VersionMismatchError,
)
from ._execute import confirm, execute
from ._follow import import_block
from ._identity import dump_ra, register
from ._platform import PlatformPort
from ._reads import ask
from ._rehearse import rehearse
from ._rotation import hold_keys, stage_keys
from ._sessions import Sessions
from ._shard import Shard
from ._skip import skip_to
from ._speak import speak_effects
from ._start import start
from ._status import status
from ._transfer import (
    diff_apply,
    snapshot_begin,
    snapshot_check,
    snapshot_check_chunk,
    snapshot_chunk,
    snapshot_drop,
    snapshot_get,
)
from ._witness import evidence, show_conflict

M = TypeVar("M", bound=Message)
_MAX_REASON = 4000
_Handler = Callable[[Message], Message]


class Enclave:
    """An application's runtime and everything that guards it, as one function.

    Guarantees that every refusal is a :class:`Refused` after which the enclave
    goes on as if it had not been asked. What is no refusal (``MemoryError``, a
    bug) goes through: the process ends before anything leaves it.

    Args:
        manifest: What the bundle says of itself; measured.
        platform: The TEE.
        entropy: Source of all keys.
        runtime: The application.

    Raises:
        PlatformRefusedError: The platform does not say who this is.
        TrustAnchorError: An attestation root of the manifest cannot be read, or
            is of another kind than the manifest says.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        platform: PlatformPort,
        entropy: Entropy,
        runtime: Runtime,
    ) -> None:
        self._manifest = manifest
        self._platform = platform
        self._entropy = entropy
        self._runtime = runtime
        self._anchors = tuple(_anchor(root) for root in manifest.attestation_roots)
        self._me = platform.identity()
        self._shard: Shard | None = None
        #: The role in an audit, once it has one; it has no other then.
        self._role = ""
        self._handlers: Mapping[type[Message], _Handler] = {
            Hello: _of(Hello, self._hello),
            Start: _of(Start, self._start),
            AuditOpen: _of(AuditOpen, self._audit_open),
        }

    def handle(self, frame: bytes) -> bytes:
        """Answer one request; total over all bytes."""
        try:
            kind = cast("type[Message]", Request)
            request = decode(kind, frame, limit=MAX_FRAME_BYTES)
            reply = self._answer(request)
        except InvariantError:
            raise
        except SealiftError as error:
            reply = Refused(code=error.code, message=str(error)[:_MAX_REASON])
        return encode(reply)

    def _answer(self, request: Message) -> Message:
        handler = self._handlers.get(type(request))
        if handler is None and (self._role or self._shard is not None):
            raise AuditRoleError(
                f"an {self._role} does nothing but its part in an audit"
                if self._role
                else "an enclave that was started for a shard can't be this",
                got=type(request).__name__,
                hint="Start another process.",
            )
        if handler is None:
            raise NotStartedError(
                "the enclave was not started",
                got=type(request).__name__,
                expected="Start",
            )
        reply = handler(request)
        if type(reply) not in ECALLS[type(request)]:
            raise InvariantError(
                "reply outside the ECALL table", got=type(reply).__name__
            )
        return reply

    def _hello(self, request: Hello) -> HelloReply:
        low, high = self._manifest.ecall_versions
        version = min(high, request.version_high)
        if version < max(low, request.version_low):
            raise VersionMismatchError(
                "no common version of the ECALL table",
                got=f"{request.version_low} … {request.version_high}",
                expected=f"{low} … {high}",
            )
        me = self._me
        return HelloReply(
            version=version,
            platform=me.kind,
            fingerprint=me.mrenclave,
            mr_signer=me.mrsigner,
            isv_prod_id=me.isv_prod_id,
            isv_svn=me.isv_svn,
            name=self._manifest.name,
            app_version=self._manifest.version,
            metadata=encode(self._runtime.metadata()),
        )

    def _start(self, request: Start) -> Started:
        if self._shard is not None:
            raise AlreadyStartedError("the enclave was started already")
        shard, started = start(
            request,
            manifest=self._manifest,
            me=self._me,
            platform=self._platform,
            entropy=self._entropy,
            runtime=self._runtime,
        )
        self._shard = shard
        self._handlers = {
            Hello: _of(Hello, self._hello),
            Start: _of(Start, self._start),
            **_table(shard, Sessions(shard, self._anchors)),
            AuditBegin: _of(AuditBegin, self._audit_begin),
        }
        return started

    def _audit_open(self, request: AuditOpen) -> AuditOpened:
        auditee = Auditee(
            request,
            manifest=self._manifest,
            me=self._me,
            platform=self._platform,
            entropy=self._entropy,
            runtime=self._runtime,
        )
        opened = auditee.opened()
        self._role = "auditee"
        self._handlers = {
            Hello: _of(Hello, self._hello),
            AuditWork: _of(AuditWork, auditee.work),
            AuditMore: _of(AuditMore, auditee.more),
        }
        return opened

    def _audit_begin(self, request: AuditBegin) -> AuditBegun:
        if self._shard is None:
            raise InvariantError("an audit begins in a started enclave")
        auditor = Auditor(self._shard, self._anchors, request)
        self._role = "auditor"
        self._handlers = {
            Hello: _of(Hello, self._hello),
            **_auditor_table(self._shard, auditor),
        }
        return auditor.begun()


def _anchor(root: AttestationRoot) -> TrustAnchor:
    """A measured root, if it is of the kind that readers of the manifest see."""
    anchor = parse_trust_anchor(root.certificate())
    if anchor.kind != root.kind:
        raise TrustAnchorError(
            "a root of the manifest is of another kind",
            [Failure(rule=Rule.TRUST_ANCHOR, got=anchor.kind, expected=root.kind)],
        )
    return anchor


def _table(shard: Shard, sessions: Sessions) -> dict[type[Message], _Handler]:
    return {
        Genesis: _of(Genesis, lambda r: load_genesis(shard, r)),
        SnapshotBegin: _of(SnapshotBegin, lambda r: snapshot_begin(shard, r)),
        SnapshotGet: _of(SnapshotGet, lambda r: snapshot_get(shard, r)),
        SnapshotChunk: _of(SnapshotChunk, lambda r: snapshot_chunk(shard, r)),
        SnapshotCheck: _of(SnapshotCheck, lambda r: snapshot_check(shard, r)),
        SnapshotCheckChunk: _of(
            SnapshotCheckChunk, lambda r: snapshot_check_chunk(shard, r)
        ),
        SnapshotDrop: _of(SnapshotDrop, lambda r: snapshot_drop(shard, r)),
        DiffApply: _of(DiffApply, lambda r: diff_apply(shard, r)),
        ImportBlock: _of(ImportBlock, lambda r: import_block(shard, r)),
        SkipTo: _of(SkipTo, lambda r: skip_to(shard, r)),
        ShowConflict: _of(ShowConflict, lambda r: show_conflict(shard, r)),
        GetEvidence: _of(GetEvidence, lambda _: evidence(shard)),
        Execute: _of(Execute, lambda _: execute(shard)),
        Rehearse: _of(Rehearse, lambda _: rehearse(shard)),
        Confirm: _of(Confirm, lambda r: confirm(shard, r)),
        SpeakEffects: _of(SpeakEffects, lambda r: speak_effects(shard, r)),
        Register: _of(Register, lambda r: register(shard, operator=r.operator)),
        BornKeys: _of(BornKeys, lambda r: born_keys(shard, r)),
        StageKeys: _of(StageKeys, lambda _: stage_keys(shard)),
        HoldKeys: _of(HoldKeys, lambda _: hold_keys(shard)),
        GetStatus: _of(GetStatus, lambda _: status(shard)),
        DumpRa: _of(DumpRa, lambda _: dump_ra(shard)),
        Ask: _of(Ask, lambda r: ask(shard, r)),
        OpenSession: _of(OpenSession, sessions.open),
        FeedSession: _of(FeedSession, sessions.feed),
        ProveSession: _of(ProveSession, sessions.prove),
        CloseSession: _of(CloseSession, lambda r: sessions.close(r.session)),
    }


def _auditor_table(shard: Shard, auditor: Auditor) -> dict[type[Message], _Handler]:
    return {
        ImportBlock: _of(ImportBlock, auditor.follow),
        ShowConflict: _of(ShowConflict, lambda r: show_conflict(shard, r)),
        GetEvidence: _of(GetEvidence, lambda _: evidence(shard)),
        GetStatus: _of(GetStatus, lambda _: status(shard)),
        AuditPresent: _of(AuditPresent, auditor.present),
        AuditNext: _of(AuditNext, auditor.next),
        AuditAdmit: _of(AuditAdmit, auditor.admit),
        AuditTake: _of(AuditTake, auditor.take),
    }


def _of(kind: type[M], handler: Callable[[M], Message]) -> _Handler:
    """A handler of one request's type as a handler of any message."""

    def handle(request: Message) -> Message:
        if not isinstance(request, kind):
            raise InvariantError("request of another type", got=type(request).__name__)
        return handler(request)

    return handle
