"""What histories reach: how often each fault happened and each branch of the protocol was taken.

A fault that never fires proves nothing, so every one has a name here, `make simulate` prints how
often it was seen, and a test wants each to be seen by the fixed seeds. A feature adds its lines.
"""

from typing import Final

from bursar.v1 import allowances_pb2

EVENTS: Final = (
    # Streams and the network.
    "a stream broke for both ends",
    "a stream broke for the sidecar alone",
    "a stream broke for the control plane alone",
    "frames on their way up were lost",
    "frames of an older stream arrived late",
    "the control plane noticed a dead stream",
    "all streams broke at once",
    "the way up was dead for a while",
    "the way down was dead for a while",
    "a Hello arrived and its Welcome did not",
    "a silent stream was given up",
    # Time and lost tails.
    "the database forgot its last commits",
    "a forgotten grant was restored",
    # Sidecars and their disks.
    "a process was killed",
    "a process was killed by a write that did not reach the disk",
    "a process was killed by a write that reached the disk in part",
    "a process was killed behind its write",
    "a process was killed as it started",
    "a machine lost power",
    "a power loss cut a journal",
    "a disk was lost",
    "a disk was copied to another machine",
    "a disk was copied on its machine",
    "a full disk refused a call",
    "a full journal refused a call",
    "a full disk kept a charge from being written",
    "a full disk had room again",
    "a disk was too full to start",
    "a journal went on in a new segment",
    "a clock ran fast",
    "a clock ran slow",
    "nothing ran for longer than any validity",
    "a sidecar ended in an orderly way",
    # The control plane and its database.
    "the database was away",
    "the acknowledgement of a commit was lost",
    "a control plane died before its commit",
    "a control plane died behind its commit",
    "a second owner took the shard",
    "a deposed owner was stopped",
    # What admins do.
    "a limit was cut",
    "a limit was raised",
    "a limit was cut below what was out and spent",
    "a limit was raised for a while",
    "a temporary raise was cancelled",
    "a raised limit was in force",
    "a key was revoked",
    "money was decided to be spent",
    "money was decided to be free",
    "a decision was refused: the session came back",
    "evidence took back what was decided to be spent",
    "evidence came for money that was decided to be free",
    "a sidecar was away for longer than the longest call",
    "a budget was made over keys in use",
    "a new budget began with what was spent before",
    "a call was counted in a budget it did not know",
    "a price changed",
    "a call was priced by the list in force",
    "a call was priced by a list that was replaced meanwhile",
    "a budget was disabled",
    "a budget was enabled again",
    # Versions.
    "an older sidecar met a newer peer",
    "an older control plane met a newer peer",
    "a program was replaced by another build",
    # Branches of the protocol.
    "a session began",
    "a session was resumed",
    "a session was fenced",
    "a need was granted",
    "a need was refused: exhausted",
    "a need was refused: contended",
    "a need was refused: stale",
    "a need was clamped",
    "a call began with what was left here",
    "a call began clamped",
    "money was recalled",
    "a window was in its tail",
    "a call waited and was admitted",
    "a call waited too long",
    "an app hung up while its call waited",
    "an app hung up as its call was admitted",
    "a call grew from what was free",
    "a call waited and grew",
    "a call grew after its window",
    "growth was refused",
    "growth could not be written",
    "a call ended while it waited to grow",
    "a progressive stream came to its end",
    "a progressive stream was cut",
    "a stream took the last of what was free",
    "a call that might have grown began whole or clamped",
    "a last call was admitted",
    "a last call found no room",
    "a key was refused",
    "a key of another organization was used",
    "two organizations shared the platform's budget",
    "no call could start without a valid policy",
    "a call ended after its window",
    "a charge cost more than was set aside",
    "a charge was overrun",
    "a final was posted",
    "a provisional was posted",
    "a release was posted",
    "a final took its provisional back",
    "a charge was said again and dropped",
    "money was in doubt",
    "money in doubt was settled by evidence",
    "a session closed",
    "a whole journal was replayed",
    "a cut journal was replayed",
    "the platform's budgets were lent",
)
SEEN: Final = dict.fromkeys(EVENTS, 0)
"""Since the process began, or `forget`."""


def saw(event: str, times: int = 1) -> None:
    """It happened. Raises KeyError for what has no name here."""
    SEEN[event] += times


def forget() -> None:
    """Count from zero."""
    for event in EVENTS:
        SEEN[event] = 0


def report() -> str:
    """The counts, one a line."""
    width = max(len(str(times)) for times in SEEN.values())
    return "\n".join(f"  {times:>{width}}  {event}" for event, times in SEEN.items())


_OUTCOMES: Final = {
    allowances_pb2.NEED_OUTCOME_GRANTED: "a need was granted",
    allowances_pb2.NEED_OUTCOME_EXHAUSTED: "a need was refused: exhausted",
    allowances_pb2.NEED_OUTCOME_CONTENDED: "a need was refused: contended",
    allowances_pb2.NEED_OUTCOME_STALE: "a need was refused: stale",
    allowances_pb2.NEED_OUTCOME_CLAMPED: "a need was clamped",
}


def heard(frame: allowances_pb2.ControlFrame) -> None:
    """Count what a sidecar heard."""
    if frame.HasField("welcome"):
        saw(f"a session {'was resumed' if frame.welcome.resumed else 'began'}")
    if frame.HasField("fence"):
        saw("a session was fenced")
    for verdict in frame.verdicts:
        saw(_OUTCOMES[verdict.outcome])
    saw("money was recalled", len(frame.recalls))
    saw("a window was in its tail", sum(each.tail for each in frame.allowances))
    saw("a key was refused", sum(bool(key.refusal) for key in frame.policy.keys))
