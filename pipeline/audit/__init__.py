"""The audit of one document: its Kafka records against its stored rows and its ledger row. Pure."""

from pipeline.audit.compare import compare_document
from pipeline.audit.expected_state import ExpectedState, ExpectedWrite, supersedes
from pipeline.audit.findings import (
    KINDS,
    STORED_FIELDS,
    AppendedIds,
    AuditScope,
    Finding,
    Problem,
    StoredRow,
    stored_row,
    text_digest,
)
from pipeline.audit.repair_plan import RepairPlan, plan_repair

__all__ = [
    "KINDS",
    "STORED_FIELDS",
    "AppendedIds",
    "AuditScope",
    "ExpectedState",
    "ExpectedWrite",
    "Finding",
    "Problem",
    "RepairPlan",
    "StoredRow",
    "compare_document",
    "plan_repair",
    "stored_row",
    "supersedes",
    "text_digest",
]
