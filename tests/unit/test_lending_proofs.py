"""Proofs of sessions and grants, and what a proven grant does to the books."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from bursar_server.allowances import claims, rules
from bursar_server.allowances.frames import Frame, Report
from bursar_server.allowances.proofs import GrantProof, Seal, SessionProof
from bursar_server.allowances.records import window_id

NOW = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
SEAL = Seal(b"the key of the shard")
GRANT = GrantProof(2, 17, "boot-1", 11, 1, NOW, None, 300)
SESSION = SessionProof(2, 17, 2, 50, "boot-1")


@pytest.mark.parametrize("proof", [GRANT, SESSION])
def test_what_was_sealed_is_read_again(proof: GrantProof | SessionProof) -> None:
    assert SEAL.read(SEAL.make(proof)) == proof
    assert Seal(b"another key").read(SEAL.make(proof)) is None


def test_nothing_can_be_changed_in_a_proof() -> None:
    sealed = SEAL.make(GRANT)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert SEAL.read(bytes(changed)) is None
    for length in range(len(sealed)):
        assert SEAL.read(sealed[:length]) is None


def books(granted: int, settled: int = 0) -> rules.Books:
    balance = rules.WindowBalance(
        id=11,
        budget_id=1,
        hard=True,
        limit=400,
        ceiling=400,
        outstanding=granted,
        settled=settled,
    )
    return rules.Books({11: balance}, {(17, 11): rules.Totals(granted=granted)})


def test_a_forgotten_grant_is_out_again_and_the_window_lends_no_more() -> None:
    changed = books(100)
    assert claims.restore(changed, claims.Claim(17, 11, 300)) == 200
    window = changed.windows[11]
    assert (window.outstanding, window.ceiling, window.frozen) == (300, 400, True)
    assert (window.available, window.attainable) == (0, 400)
    with pytest.raises(rules.RuleViolation):
        changed.grant(17, 11, 1)


def test_a_grant_that_does_not_fit_any_more_raises_the_ceiling() -> None:
    changed = books(100, settled=300)
    claims.restore(changed, claims.Claim(17, 11, 300))
    assert (changed.windows[11].outstanding, changed.windows[11].ceiling) == (300, 600)


def test_a_grant_that_is_known_changes_nothing() -> None:
    changed = books(300)
    assert claims.restore(changed, claims.Claim(17, 11, 300)) == 0
    assert not changed.windows[11].frozen


def test_a_call_that_draws_on_a_frozen_window_is_told_to_come_again() -> None:
    changed = books(0)
    changed.windows[11].frozen = True
    need = rules.Need(17, 1, (rules.NeedLine(11, 10, 10, 50),), deadline_ms=1_000)
    decisions = rules.lend(changed, [need], [rules.Want(17, 11, 0, 50)], {}, 0)
    assert decisions.contended == [(need, [11])]
    assert not decisions.touched


@pytest.mark.parametrize(
    ("seen", "claim", "is_unproven"),
    [
        (100, None, False),
        (101, None, True),
        (300, claims.Claim(17, 11, 300), False),
        (301, claims.Claim(17, 11, 300), True),
        (300, claims.Claim(18, 11, 300), True),
    ],
)
def test_more_than_was_granted_is_unproven_without_a_proof(
    seen: int, claim: claims.Claim | None, *, is_unproven: bool
) -> None:
    report = Report(11, seen, 0, 0, 0, 0)
    frame = Frame(17, 1, (report,), (), frozenset(), (), (), None, (), b"")
    session: Any = SimpleNamespace(session_epoch=17)
    found = list(claims.unproven([(session, frame)], books(100), [claim] if claim else []))
    assert found == ([(session, report)] if is_unproven else [])


def test_a_window_has_the_same_id_whenever_it_begins() -> None:
    assert window_id(2, 1, NOW) == window_id(2, 1, NOW)
    others = {window_id(2, 1, NOW), window_id(2, 2, NOW), window_id(3, 1, NOW)}
    assert len(others) == 3
    assert all(0 < id < 2**60 for id in others)
