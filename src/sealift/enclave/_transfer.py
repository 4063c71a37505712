"""State in and out: snapshots and diffs behind their ECALLs."""

from sealift.protocol.ecall import (
    DiffApply,
    SnapshotBegin,
    SnapshotCheck,
    SnapshotCheckChunk,
    SnapshotChecked,
    SnapshotChunk,
    SnapshotDrop,
    SnapshotGet,
    SnapshotHeader,
    StateReply,
)

from ._birth import state_reply
from ._diff import apply_diff
from ._errors import (
    NoStateError,
    OldSnapshotError,
    SnapshotContradictedError,
    SnapshotOrderError,
)
from ._intake import Intake, begin_intake
from ._judge import check_snapshot, judge_state, note_executed, prune, voided
from ._rehearse import keep_shadow, note_changes
from ._shadow import take_over
from ._shard import Shard
from ._snapshot import begin_export
from ._state import SnapshotBody, SnapshotFacts


def snapshot_begin(shard: Shard, request: SnapshotBegin) -> SnapshotHeader:
    """Begin an export of the state as it is, or an import.

    An import replaces nothing before its last chunk is in. It must lead further
    than the state that is there, unless that one has diverged, and L1 must not be
    known to have decided otherwise. Begun again with the same header, it goes on.

    Raises:
        HaltedError: The chain has forked.
        NoStateError: Nothing to export.
        DivergedStateError: What would be exported is void.
        OldSnapshotError: An import that would lead back.
        SnapshotContradictedError: An import of what L1 did not confirm.
        SealiftError: As :func:`begin_intake`.
    """
    shard.check_going()
    if request.header is not None:
        return _begin_import(shard, request.header)
    state = shard.sound_state()
    if state is None:
        raise NoStateError("there is no state to export")
    export = begin_export(shard.keys, state, entropy=shard.entropy)
    shard.exporting = export
    return _header(export.header, export.facts, export.chunks)


def snapshot_get(shard: Shard, request: SnapshotGet) -> SnapshotChunk:
    """Seal one chunk of the export that was begun.

    Raises:
        SnapshotOrderError: None was begun, or there is no such chunk.
    """
    shard.check_going()
    if shard.exporting is None:
        raise SnapshotOrderError("no export was begun")
    data = shard.exporting.chunk(shard.keys, request.index, entropy=shard.entropy)
    return SnapshotChunk(index=request.index, data=data)


def snapshot_chunk(shard: Shard, request: SnapshotChunk) -> StateReply:
    """Take a chunk; with the last one, the state is the snapshot's.

    A refused chunk has changed nothing: another may come in its place.

    Raises:
        SnapshotOrderError: No import was begun, or not a chunk for now.
        SnapshotForgedError: The chunk is not one of this snapshot.
        StateRootMismatchError: Its head leads to another root; or, with format 1,
            all pages do: then the import is over, the state as it was.
        OldSnapshotError: The state has passed the snapshot meanwhile.
        SnapshotContradictedError: L1 has confirmed another root meanwhile.
    """
    shard.check_going()
    running = shard.importing
    if running is None:
        raise SnapshotOrderError("no import was begun")
    running.take(shard.keys, request.index, request.data)
    if not running.missing:
        shard.importing = None
        state = running.state()
        _check_newer(shard, state.height)
        _check_decided(shard, running)
        shard.state, shard.birth = state, None
        judge_state(shard)
        prune(shard)
    return state_reply(shard)


def snapshot_check(shard: Shard, request: SnapshotCheck) -> SnapshotChecked:
    """Begin to check a snapshot, whatever its height; one at a time.

    Raises:
        HaltedError: The chain has forked.
        SnapshotContradictedError: L1 has decided otherwise.
        SealiftError: As :func:`begin_intake`.
    """
    shard.check_going()
    begun = begin_intake(shard.keys, request.header, view=shard.view, keep=False)
    reply = _checked(shard, begun)
    shard.checking = begun
    return reply


def snapshot_check_chunk(shard: Shard, request: SnapshotCheckChunk) -> SnapshotChecked:
    """Look at a chunk; with the last one the check is over.

    Raises:
        SnapshotOrderError: No check was begun, or not a chunk for now.
        SnapshotForgedError: The chunk is not one of this snapshot.
        StateRootMismatchError: Its head leads to another root; or, with format 1,
            all pages do: then the check is over.
        SnapshotContradictedError: L1 has confirmed another root meanwhile.
    """
    shard.check_going()
    running = shard.checking
    if running is None:
        raise SnapshotOrderError("no check was begun")
    running.take(shard.keys, request.index, request.data)
    if not running.missing:
        shard.checking = None
        running.check_whole()
    return _checked(shard, running)


def snapshot_drop(shard: Shard, request: SnapshotDrop) -> StateReply:
    """Free what a snapshot holds; the state is as it was."""
    if request.what == "export":
        shard.exporting = None
    elif request.what == "import":
        shard.importing = None
    else:
        shard.checking = None
    return state_reply(shard)


def diff_apply(shard: Shard, request: DiffApply) -> StateReply:
    """Advance the state by a block that this or another instance executed.

    Raises:
        HaltedError: The chain has forked.
        NoStateError: There is no state to advance.
        DivergedStateError: The state is void.
        SealiftError: As :func:`apply_diff`; the state is as it was.
    """
    shard.check_going()
    state = shard.sound_state()
    if state is None:
        raise NoStateError("there is no state to advance")
    header, own = apply_diff(
        shard.keys,
        state,
        request.diff,
        view=shard.view,
        take_over=lambda: take_over(shard.shadow, shard.executor, state),
        note=lambda changes: note_changes(shard, changes),
    )
    entry = header.entry
    state.epoch = header.epoch
    state.height, state.root, state.root_height = entry.height, entry.root, entry.height
    state.time = entry.time
    state.trail.append(entry)
    # This instance executes only on what it trusts, so its own diff says so.
    state.trusted = own
    note_executed(shard, state)
    judge_state(shard)
    prune(shard)
    keep_shadow(shard)
    return state_reply(shard)


def _begin_import(shard: Shard, header: bytes) -> SnapshotHeader:
    begun = begin_intake(shard.keys, header, view=shard.view, keep=True)
    _check_newer(shard, begun.facts.height)
    _check_decided(shard, begun)
    running = shard.importing
    # Chunks of format 1 come in order from the first, so that one begins anew.
    if running is None or running.header != header or begun.facts.format == 1:
        shard.importing = begun
    return _header(header, begun.facts, begun.chunks)


def _header(
    header: bytes, facts: SnapshotBody | SnapshotFacts, chunks: int
) -> SnapshotHeader:
    return SnapshotHeader(
        header=header,
        height=facts.height,
        chunks=chunks,
        format=facts.format,
        root=facts.root,
        epoch=facts.epoch,
    )


def _checked(shard: Shard, running: Intake) -> SnapshotChecked:
    facts = running.facts
    return SnapshotChecked(
        format=facts.format,
        height=facts.height,
        root=facts.root,
        epoch=facts.epoch,
        chunks=running.chunks,
        missing=running.missing,
        next_missing=running.next_missing,
        confirmed=_check_decided(shard, running),
    )


def _check_newer(shard: Shard, height: int) -> None:
    state = shard.state
    if state is not None and not state.diverged and height <= state.height:
        raise OldSnapshotError(
            "the snapshot leads back", got=height, expected=f"> {state.height}"
        )


def _check_decided(shard: Shard, running: Intake) -> bool:
    """Whether L1 is proven to have confirmed a snapshot; never what it decided else.

    Raises:
        SnapshotContradictedError: It has confirmed another root, or taken a block
            of it from the generation that executed it.
    """
    facts = running.facts
    done = [(entry.height, entry.generation) for entry in facts.trail]
    if isinstance(facts, SnapshotFacts) and facts.last is not None:
        done.append((facts.height, facts.last.generation))
    for height, generation in done:
        if voided(shard.view, height, generation):
            raise SnapshotContradictedError(
                f"the snapshot holds block {height} of a generation that was voided",
                got=generation,
                hint="Fetch a snapshot of the confirmed state from another worker.",
            )
    return check_snapshot(shard, facts.height, facts.root)
