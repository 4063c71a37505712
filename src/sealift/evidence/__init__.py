"""A shard's lineage in one file, verified offline: pure, without any enclave code.

Bytes in, a lineage out. It stands on the verifiers of headers and quotes and on
the protocol's messages alone: not on the ledger, whose schedule it derives a
second time.
"""

from ._calls import EVIDENCE_CALLS, quote_of_registration
from ._errors import (
    ActUnprovenError,
    BirthRefusedError,
    EvidenceError,
    EvidenceFormatError,
    EvidenceStaleError,
    HeadersRefusedError,
    InclusionError,
    InstanceRefusedError,
    KeysUnexplainedError,
    LineageForeignError,
    RootChainError,
    ScheduleUnexplainedError,
)
from ._explain import explain_lineage
from ._file import (
    MAX_EVIDENCE_BYTES,
    EvidenceBlock,
    EvidenceFile,
    EvidenceHeader,
    EvidenceState,
    EvidenceTx,
    parse_evidence,
    render_evidence,
)
from ._lineage import (
    CurrentLineage,
    DecidedAct,
    EpochLineage,
    GenerationLineage,
    LineagePin,
    RuledChange,
    TermsAhead,
    VerifiedInstance,
    VerifiedLineage,
    VerifiedRehearsal,
    follow_lineage,
    require_fresh,
)
from ._verify import verify_evidence

__all__ = [
    "EVIDENCE_CALLS",
    "MAX_EVIDENCE_BYTES",
    "ActUnprovenError",
    "BirthRefusedError",
    "CurrentLineage",
    "DecidedAct",
    "EpochLineage",
    "EvidenceBlock",
    "EvidenceError",
    "EvidenceFile",
    "EvidenceFormatError",
    "EvidenceHeader",
    "EvidenceStaleError",
    "EvidenceState",
    "EvidenceTx",
    "GenerationLineage",
    "HeadersRefusedError",
    "InclusionError",
    "InstanceRefusedError",
    "KeysUnexplainedError",
    "LineageForeignError",
    "LineagePin",
    "RootChainError",
    "RuledChange",
    "ScheduleUnexplainedError",
    "TermsAhead",
    "VerifiedInstance",
    "VerifiedLineage",
    "VerifiedRehearsal",
    "explain_lineage",
    "follow_lineage",
    "parse_evidence",
    "quote_of_registration",
    "render_evidence",
    "require_fresh",
    "verify_evidence",
]
