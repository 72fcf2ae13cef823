"""What a settlement is to the one that is posted already, as the real ledger judges it."""

from typing import Literal

from bursar.v1 import charges_pb2

FINAL = charges_pb2.SETTLEMENT_KIND_FINAL
PROVISIONAL = charges_pb2.SETTLEMENT_KIND_PROVISIONAL


def judged(
    posted: charges_pb2.Settlement | None, settlement: charges_pb2.Settlement
) -> Literal["new", "adjustment", "repeat"]:
    """A final adjusts its provisional; whatever else comes again must be the same."""
    if posted is None:
        return "new"
    if (posted.kind, settlement.kind) == (PROVISIONAL, FINAL):
        return "adjustment"
    # A provisional that comes again behind its final adds nothing.
    same = posted == settlement or settlement.kind == PROVISIONAL
    assert same, f"{settlement.session_epoch}-{settlement.n} changed"
    return "repeat"
