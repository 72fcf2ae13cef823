"""Keys and selectors: who a key is, for how long, and which budgets apply to a call."""

from typing import Any

import pytest

from bursar.v1 import allowances_pb2
from bursar_sidecar import identity as identity_module
from bursar_sidecar.allowances import BudgetRef, Plan
from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.desk import Spender
from bursar_sidecar.identity import Identity, KnownKey, hash_of

NOW = 1_000 * NANOS_PER_SECOND
ORGANIZATION = 20


def key(secret: str = "bk-ada", key_id: int = 7, **fields: Any) -> allowances_pb2.KeyPolicy:
    return allowances_pb2.KeyPolicy(
        key_hash=hash_of(secret), key_id=key_id, name=f"keys/k-{key_id}", **fields
    )


def budget(
    budget_id: int,
    kind: "allowances_pb2.ScopeKind.ValueType" = allowances_pb2.SCOPE_KIND_ORGANIZATION,
    scope_id: int = ORGANIZATION,
    *,
    hard: bool = True,
    **fields: Any,
) -> allowances_pb2.BudgetPolicy:
    return allowances_pb2.BudgetPolicy(
        budget_id=budget_id, scope_kind=kind, scope_id=scope_id, hard=hard, **fields
    )


def tell(identity: Identity, now: int = NOW, **fields: Any) -> None:
    delta = allowances_pb2.PolicyDelta(policy_version=1, **fields)
    identity.apply(delta, "organizations/acme", ORGANIZATION, "EUR", now)


@pytest.fixture
def identity() -> Identity:
    identity = Identity()
    identity.begin_generation(NOW)
    return identity


def known(identity: Identity, secret: str = "bk-ada", now: int = NOW) -> KnownKey:
    found = identity.known(hash_of(secret), now)
    assert found is not None
    return found


def spender(identity: Identity, secret: str = "bk-ada") -> Spender:
    found = known(identity, secret).spender
    assert found is not None
    return found


def budget_ids(
    identity: Identity, provider: str = "openai", model: str = "gpt-4o", requested: str = "gpt-4o"
) -> list[int]:
    plan = identity.plan(spender(identity), provider, model, requested)
    return [ref.budget_id for ref in (*plan.organization, *plan.platform)]


def test_a_key_is_known_by_its_hash_alone(identity: Identity) -> None:
    assert identity.known(hash_of("bk-ada"), NOW) is None
    tell(identity, keys=[key(user_id=4, user="users/ada", allowed_models=["gpt-*"])])
    who = spender(identity)
    assert (who.key, who.user, who.user_id, who.currency) == ("keys/k-7", "users/ada", 4, "EUR")
    assert who.allowed_models == ("gpt-*",)
    assert identity.hash_of_id(7) == hash_of("bk-ada")


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (allowances_pb2.KEY_REFUSAL_UNKNOWN, "key_unknown"),
        (allowances_pb2.KEY_REFUSAL_REVOKED, "key_revoked"),
        (allowances_pb2.KEY_REFUSAL_DISABLED, "key_disabled"),
        (allowances_pb2.KEY_REFUSAL_EXPIRED, "key_expired"),
    ],
)
def test_a_refused_key_is_remembered_with_its_reason(
    identity: Identity, refusal: "allowances_pb2.KeyRefusal.ValueType", reason: str
) -> None:
    tell(identity, keys=[key()])
    refused = allowances_pb2.KeyPolicy(key_hash=hash_of("bk-ada"), refusal=refusal)
    tell(identity, keys=[refused])
    assert (known(identity).spender, known(identity).refusal) == (None, reason)
    tell(identity, keys=[key()])
    assert known(identity).spender is not None


def test_a_key_expires_by_itself(identity: Identity) -> None:
    tell(identity, keys=[key(expires_in_ms=1_000)])
    assert known(identity, now=NOW + NANOS_PER_SECOND - 1).spender is not None
    expired = known(identity, now=NOW + NANOS_PER_SECOND)
    assert (expired.spender, expired.refusal) == (None, "key_expired")


def test_guessed_keys_push_no_good_one_out(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_module, "MAX_REFUSED_KEYS", 10)
    tell(identity, keys=[key()])
    unknown = allowances_pb2.KEY_REFUSAL_UNKNOWN
    for n in range(50):
        guess = allowances_pb2.KeyPolicy(key_hash=hash_of(f"bk-{n}"), refusal=unknown)
        tell(identity, keys=[guess])
    assert known(identity).spender is not None
    assert identity.known(hash_of("bk-0"), NOW) is None
    assert known(identity, "bk-49").refusal == "key_unknown"


def test_the_key_used_longest_ago_is_forgotten_first(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_module, "MAX_KEYS", 2)
    tell(identity, keys=[key("bk-1", 1), key("bk-2", 2)])
    known(identity, "bk-1")
    tell(identity, keys=[key("bk-3", 3)])
    assert identity.known(hash_of("bk-2"), NOW) is None
    assert identity.begin_generation(NOW) == [hash_of("bk-3"), hash_of("bk-1")]


def test_keys_beyond_those_asked_for_again_count_no_more(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_module, "MAX_KEYS_ASKED_AGAIN", 1)
    tell(identity, keys=[key("bk-1", 1), key("bk-2", 2)])
    assert identity.begin_generation(NOW + NANOS_PER_SECOND) == [hash_of("bk-2")]
    assert identity.known(hash_of("bk-1"), NOW) is None
    assert known(identity, "bk-2").spender is not None


def test_a_new_stream_is_current_once_all_keys_were_told_again(identity: Identity) -> None:
    assert identity.is_current
    tell(identity, keys=[key("bk-1", 1), key("bk-2", 2)])
    identity.begin_generation(NOW + NANOS_PER_SECOND)
    assert not identity.is_current
    revoked = allowances_pb2.KEY_REFUSAL_REVOKED
    tell(identity, keys=[allowances_pb2.KeyPolicy(key_hash=hash_of("bk-2"), refusal=revoked)])
    assert not identity.is_current
    tell(identity, keys=[key("bk-1", 1)])
    assert identity.is_current


def test_every_scope_of_the_key_applies(identity: Identity) -> None:
    kinds = allowances_pb2
    tell(
        identity,
        keys=[key(team_id=2, project_id=3, user_id=4)],
        budgets=[
            budget(11),
            budget(12, kinds.SCOPE_KIND_TEAM, 2),
            budget(13, kinds.SCOPE_KIND_PROJECT, 3),
            budget(14, kinds.SCOPE_KIND_USER, 4),
            budget(15, kinds.SCOPE_KIND_KEY, 7, hard=False),
            budget(21, kinds.SCOPE_KIND_TEAM, 3),
            budget(22, kinds.SCOPE_KIND_KEY, 8),
            budget(23, kinds.SCOPE_KIND_ORGANIZATION, 21),
        ],
    )
    platform = allowances_pb2.PolicyDelta(budgets=[budget(5, kinds.SCOPE_KIND_PLATFORM, 1)])
    identity.apply_platform(platform, whole=True)
    plan = identity.plan(spender(identity), "openai", "gpt-4o", "gpt-4o")
    assert plan == Plan(
        tuple(BudgetRef(n, hard=n != 15) for n in (11, 12, 13, 14, 15)),
        (BudgetRef(5, hard=True),),
    )


def test_nobody_shares_the_budget_of_no_team(identity: Identity) -> None:
    tell(identity, keys=[key()], budgets=[budget(12, allowances_pb2.SCOPE_KIND_TEAM, 0)])
    assert budget_ids(identity) == []


@pytest.mark.parametrize(
    ("globs", "applies"),
    [
        (["gpt-4o"], True),
        (["gpt-*"], True),
        (["openai/*"], True),
        (["azure/*", "*-4o"], True),
        (["mine/*"], True),
        (["GPT-4O"], False),
        (["gpt-4"], False),
        (["claude-*"], False),
        (["gpt-4[a-n]"], False),
    ],
)
def test_globs_match_every_name_of_the_model(
    identity: Identity, globs: list[str], applies: bool
) -> None:
    tell(identity, keys=[key()], budgets=[budget(11, models=globs)])
    assert budget_ids(identity, requested="mine/gpt-4o") == ([11] if applies else [])


def test_providers_narrow_a_budget(identity: Identity) -> None:
    tell(identity, keys=[key()], budgets=[budget(11, providers=["azure", "bedrock"])])
    assert budget_ids(identity) == []
    assert budget_ids(identity, provider="azure") == [11]


def test_each_change_of_policy_is_in_force_at_once(identity: Identity) -> None:
    tell(identity, keys=[key()], budgets=[budget(11, models=["gpt-*"])])
    assert budget_ids(identity) == [11]
    tell(identity, budgets=[budget(11, models=["claude-*"]), budget(12)])
    assert budget_ids(identity) == [12]
    policy = identity.budget(12)
    assert policy is not None
    tell(identity, removed_budget_ids=[12])
    assert budget_ids(identity) == []
    assert identity.budget(12) is None


def test_a_budget_that_moves_to_another_scope_leaves_the_old_one(identity: Identity) -> None:
    kinds = allowances_pb2
    tell(identity, keys=[key(team_id=2)], budgets=[budget(11, kinds.SCOPE_KIND_TEAM, 2)])
    tell(identity, budgets=[budget(11, kinds.SCOPE_KIND_TEAM, 3)])
    assert budget_ids(identity) == []


def test_a_new_stream_tells_the_organizations_budgets_whole(identity: Identity) -> None:
    tell(identity, keys=[key()], budgets=[budget(11), budget(12)])
    identity.begin_generation(NOW + NANOS_PER_SECOND)
    tell(identity, budgets=[budget(12)])
    assert budget_ids(identity) == [12]


def test_older_answers_count_until_they_are_told_again_or_lapse(identity: Identity) -> None:
    team = allowances_pb2.SCOPE_KIND_TEAM
    tell(identity, keys=[key(team_id=2)], budgets=[budget(11, team, 2), budget(12, team, 2)])
    identity.begin_generation(NOW + NANOS_PER_SECOND)
    tell(identity)
    # Not told again yet: as before, for as long as what was told then is valid.
    assert budget_ids(identity) == [11, 12]
    assert identity.known(hash_of("bk-ada"), NOW + NANOS_PER_SECOND) is None
    # Told again, with the budgets there are now: 12 is gone.
    tell(identity, keys=[key(team_id=2)], budgets=[budget(11, team, 2)])
    assert budget_ids(identity) == [11]
    assert known(identity, now=NOW + 10 * NANOS_PER_SECOND).spender is not None


def test_refused_keys_are_asked_about_again_on_a_new_stream(identity: Identity) -> None:
    unknown = allowances_pb2.KEY_REFUSAL_UNKNOWN
    tell(identity, keys=[allowances_pb2.KeyPolicy(key_hash=hash_of("bk-x"), refusal=unknown)])
    identity.begin_generation(NOW + NANOS_PER_SECOND)
    assert identity.known(hash_of("bk-x"), NOW) is None


def test_the_platforms_budgets_are_replaced_whole_or_changed(identity: Identity) -> None:
    kind = allowances_pb2.SCOPE_KIND_PLATFORM
    tell(identity, keys=[key()])
    both = allowances_pb2.PolicyDelta(budgets=[budget(5, kind, 1), budget(6, kind, 1)])
    identity.apply_platform(both, whole=True)
    identity.apply_platform(allowances_pb2.PolicyDelta(removed_budget_ids=[5]), whole=False)
    assert budget_ids(identity) == [6]
    identity.apply_platform(allowances_pb2.PolicyDelta(budgets=[budget(7, kind, 1)]), whole=True)
    assert budget_ids(identity) == [7]


def test_answers_kept_are_bounded(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_module, "MAX_PLANS", 3)
    tell(identity, keys=[key()], budgets=[budget(11)])
    for n in range(10):
        assert budget_ids(identity, model=f"m-{n}") == [11]
    assert len(identity._plans) <= 3
