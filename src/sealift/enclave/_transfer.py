"""State in and out: snapshots and diffs behind their ECALLs."""

from sealift.protocol.ecall import (
    DiffApply,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotGet,
    SnapshotHeader,
    StateReply,
)

from ._birth import state_reply
from ._diff import apply_diff
from ._errors import NoStateError, OldSnapshotError, SnapshotOrderError
from ._judge import judge_state, note_executed, prune
from ._rehearse import keep_shadow, note_changes
from ._shadow import take_over
from ._shard import Shard
from ._snapshot import begin_export, begin_import, finish_import, take_chunk


def snapshot_begin(shard: Shard, request: SnapshotBegin) -> SnapshotHeader:
    """Begin an export of the state as it is, or an import.

    An import replaces nothing before its last chunk is in. It must lead
    further than the state that is there, unless that one has diverged.

    Raises:
        HaltedError: The chain has forked.
        NoStateError: Nothing to export.
        DivergedStateError: What would be exported is void.
        OldSnapshotError: An import that would lead back.
        SealiftError: As :func:`begin_import`.
    """
    shard.check_going()
    if request.header is not None:
        return _begin_import(shard, request.header)
    state = shard.sound_state()
    if state is None:
        raise NoStateError("there is no state to export")
    export = begin_export(shard.keys, state, entropy=shard.entropy)
    shard.exporting = export
    return SnapshotHeader(
        header=export.header,
        height=export.body.height,
        chunks=len(export.body.starts),
    )


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
    """Take the next chunk; with the last one, the state is the snapshot's.

    Raises:
        SnapshotOrderError: No import was begun, or not the next chunk.
        SnapshotForgedError: The chunk does not open here.
        StateRootMismatchError: The pages lead to another root; the import is
            over, the state as it was.
        OldSnapshotError: The state has passed the snapshot meanwhile.
    """
    shard.check_going()
    running = shard.importing
    if running is None:
        raise SnapshotOrderError("no import was begun")
    take_chunk(shard.keys, running, request.index, request.data)
    if running.complete:
        shard.importing = None
        state = finish_import(shard.keys, running)
        _check_newer(shard, state.height)
        shard.state, shard.birth = state, None
        judge_state(shard)
        prune(shard)
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
    running = begin_import(shard.keys, header, view=shard.view)
    _check_newer(shard, running.body.height)
    shard.importing = running
    return SnapshotHeader(
        header=header, height=running.body.height, chunks=len(running.body.starts)
    )


def _check_newer(shard: Shard, height: int) -> None:
    state = shard.state
    if state is not None and not state.diverged and height <= state.height:
        raise OldSnapshotError(
            "the snapshot leads back", got=height, expected=f"> {state.height}"
        )
