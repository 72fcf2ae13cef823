"""Who calls and which budgets apply: what the control plane told, kept small and current.

Owns the cache of keys (also of those that are refused) and the budgets' selectors. Pure: no event
loop, `now` is an argument. Keys are known by the SHA-256 of their secret alone; a plain hash is
enough because a secret carries 256 bits of randomness, and a lookup by hash leaks no secret.

Each stream begins a new generation. What an older generation told stays usable until it is told
again, or until its validity lapses, whichever is first.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bursar.selectors import Selector, model_names
from bursar.v1 import allowances_pb2
from bursar_sidecar.allowances import BudgetRef, Plan
from bursar_sidecar.clock import NANOS_PER_MS
from bursar_sidecar.desk import Spender

# Keys kept in memory (about 1 kB each); one that falls out is asked for again.
MAX_KEYS: Final = 10_000
# Refused and unknown keys are kept apart, so that guessed ones can't push good ones out.
MAX_REFUSED_KEYS: Final = 10_000
# Keys asked for again on a new stream, the latest used first.
MAX_KEYS_ASKED_AGAIN: Final = 4_096
# Answers kept to "which budgets apply", by key and model.
MAX_PLANS: Final = 20_000
# Longer texts are no keys of ours; asking about them would only cost a round trip.
MAX_KEY_LENGTH: Final = 512

REFUSALS: Final = {
    allowances_pb2.KEY_REFUSAL_UNKNOWN: "key_unknown",
    allowances_pb2.KEY_REFUSAL_REVOKED: "key_revoked",
    allowances_pb2.KEY_REFUSAL_DISABLED: "key_disabled",
    allowances_pb2.KEY_REFUSAL_EXPIRED: "key_expired",
}


def hash_of(api_key: str) -> bytes:
    """SHA-256 of a key's secret: all that is ever kept or sent of it."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()


@dataclass(slots=True)
class KnownKey:
    """A key as the control plane last told it."""

    key_hash: bytes
    spender: Spender | None
    """None: refused, see `refusal`."""
    refusal: str
    expires_at: int
    """`Clock.boot_ns`; 0: never."""
    generation: int
    trusted_until: int
    """Beyond it an answer of an older generation counts for nothing."""


class BudgetRule:
    """A budget and whose calls for what it counts."""

    __slots__ = ("_selector", "generation", "policy", "ref", "scope")

    def __init__(self, policy: allowances_pb2.BudgetPolicy, generation: int) -> None:
        self.policy = policy
        self.generation = generation
        self.ref = BudgetRef(policy.budget_id, policy.hard)
        self.scope = (policy.scope_kind, policy.scope_id)
        self._selector = Selector(policy.models, policy.providers)

    def selects(self, provider: str, names: Iterable[str]) -> bool:
        """Whether a call of this provider and of a model with these names counts."""
        return self._selector.selects(provider, names)


class Identity:
    """Keys and budgets as told in the organization's session, and the platform's budgets."""

    def __init__(self) -> None:
        self.generation = 0
        self.policy_version = 0
        self._unheard: set[bytes] = set()
        self._keys: OrderedDict[bytes, KnownKey] = OrderedDict()
        self._refused: OrderedDict[bytes, KnownKey] = OrderedDict()
        self._hash_by_id: OrderedDict[int, bytes] = OrderedDict()
        self._budgets: dict[int, BudgetRule] = {}
        self._by_scope: dict[tuple[int, int], dict[int, BudgetRule]] = {}
        self._platform: dict[int, BudgetRule] = {}
        self._plans: dict[tuple[int, str, str, str], Plan] = {}

    # -- questions -----------------------------------------------------------------------------

    def known(self, key_hash: bytes, now: int) -> KnownKey | None:
        """What is known of a key; None: ask. Expiry is looked at here, each time."""
        entry = self._keys.get(key_hash)
        if entry is None:
            entry = self._refused.get(key_hash)
            if entry is not None:
                self._refused.move_to_end(key_hash)
            return entry
        self._keys.move_to_end(key_hash)
        if entry.generation != self.generation and now >= entry.trusted_until:
            return None
        if entry.expires_at and now >= entry.expires_at:
            return KnownKey(key_hash, None, "key_expired", 0, entry.generation, 0)
        return entry

    def hash_of_id(self, key_id: int) -> bytes | None:
        """The hash of a key that was known once."""
        return self._hash_by_id.get(key_id)

    def budget(self, budget_id: int) -> allowances_pb2.BudgetPolicy | None:
        """A budget by its id."""
        rule = self._budgets.get(budget_id) or self._platform.get(budget_id)
        return rule.policy if rule else None

    def plan(self, spender: Spender, provider: str, model: str, requested_model: str) -> Plan:
        """The budgets that apply to a call."""
        question = (spender.key_id, provider, model, requested_model)
        plan = self._plans.get(question)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[question] = self._match(spender, provider, model, requested_model)
        return plan

    @property
    def is_current(self) -> bool:
        """Whether nothing counts any more that only an older stream told: until then no version of
        the present one can be called applied."""
        return not self._unheard

    def _latest_hashes(self, most: int) -> list[bytes]:
        """The keys used last, the latest first: what to ask for on a new stream."""
        return [
            key_hash for key_hash, _entry in zip(reversed(self._keys), range(most), strict=False)
        ]

    def _match(self, spender: Spender, provider: str, model: str, requested_model: str) -> Plan:
        names = model_names(provider, model, requested_model)
        scopes = [
            (allowances_pb2.SCOPE_KIND_ORGANIZATION, spender.organization_id),
            (allowances_pb2.SCOPE_KIND_KEY, spender.key_id),
        ]
        if spender.team_id:
            scopes.append((allowances_pb2.SCOPE_KIND_TEAM, spender.team_id))
        if spender.project_id:
            scopes.append((allowances_pb2.SCOPE_KIND_PROJECT, spender.project_id))
        if spender.user_id:
            scopes.append((allowances_pb2.SCOPE_KIND_USER, spender.user_id))
        key_hash = self._hash_by_id.get(spender.key_id)
        entry = self._keys.get(key_hash) if key_hash else None
        oldest = entry.generation if entry else 0
        found = [
            rule.ref
            for scope in scopes
            for rule in self._by_scope.get(scope, {}).values()
            # When the key was told again, so were the budgets it falls under; what was not is gone.
            if rule.generation >= oldest and rule.selects(provider, names)
        ]
        platform = [r.ref for r in self._platform.values() if r.selects(provider, names)]
        return Plan(tuple(sorted(found)), tuple(sorted(platform)))

    # -- what the control plane says -----------------------------------------------------------

    def begin_generation(self, trusted_until: int) -> list[bytes]:
        """A new stream's first word on the organization: its own budgets follow whole.

        Returns the keys to ask for again: they count until `trusted_until` unless they are told.
        Others are forgotten, refused ones among them, because the new stream does not watch over
        them: they are asked for when they are used.
        """
        self.generation += 1
        asked = self._latest_hashes(MAX_KEYS_ASKED_AGAIN)
        self._unheard = set(asked)
        for key_hash in [h for h in self._keys if h not in self._unheard]:
            del self._keys[key_hash]
        for entry in self._keys.values():
            if entry.generation == self.generation - 1:
                entry.trusted_until = trusted_until
        self._refused.clear()
        for budget_id in [
            budget_id
            for budget_id, rule in self._budgets.items()
            if rule.scope[0] == allowances_pb2.SCOPE_KIND_ORGANIZATION
        ]:
            self._drop(budget_id)
        return asked

    def apply(
        self,
        delta: allowances_pb2.PolicyDelta,
        organization: str,
        organization_id: int,
        currency: str,
        now: int,
    ) -> None:
        """Take in what the organization's session was told."""
        for policy in delta.budgets:
            self._drop(policy.budget_id)
            rule = BudgetRule(policy, self.generation)
            self._budgets[policy.budget_id] = rule
            self._by_scope.setdefault(rule.scope, {})[policy.budget_id] = rule
        for budget_id in delta.removed_budget_ids:
            self._drop(budget_id)
        for key in delta.keys:
            self._unheard.discard(key.key_hash)
            self._learn(key, organization, organization_id, currency, now)
        self.policy_version = max(self.policy_version, delta.policy_version)
        self._plans.clear()

    def apply_platform(self, delta: allowances_pb2.PolicyDelta, *, whole: bool) -> None:
        """Take in what the platform's session was told; `whole`: nothing else holds any more."""
        if whole:
            self._platform.clear()
        for policy in delta.budgets:
            self._platform[policy.budget_id] = BudgetRule(policy, 0)
        for budget_id in delta.removed_budget_ids:
            self._platform.pop(budget_id, None)
        self._plans.clear()

    def _drop(self, budget_id: int) -> None:
        rule = self._budgets.pop(budget_id, None)
        if rule is not None:
            scope = self._by_scope[rule.scope]
            del scope[budget_id]
            if not scope:
                del self._by_scope[rule.scope]

    def _learn(
        self,
        key: allowances_pb2.KeyPolicy,
        organization: str,
        organization_id: int,
        currency: str,
        now: int,
    ) -> None:
        if key.refusal:
            self._keys.pop(key.key_hash, None)
            # A reason this build does not know refuses all the same.
            reason = REFUSALS.get(key.refusal, "key_unknown")
            self._refused[key.key_hash] = KnownKey(
                key.key_hash, None, reason, 0, self.generation, 0
            )
            _trim(self._refused, MAX_REFUSED_KEYS)
            return
        self._refused.pop(key.key_hash, None)
        spender = Spender(
            organization=organization,
            organization_id=organization_id,
            key=key.name,
            key_id=key.key_id,
            team_id=key.team_id,
            team=key.team,
            project_id=key.project_id,
            project=key.project,
            user_id=key.user_id,
            user=key.user,
            allowed_models=tuple(key.allowed_models),
            tags=tuple(key.tags),
            currency=currency,
        )
        expires_at = now + key.expires_in_ms * NANOS_PER_MS if key.expires_in_ms else 0
        self._keys[key.key_hash] = KnownKey(
            key.key_hash, spender, "", expires_at, self.generation, 0
        )
        self._keys.move_to_end(key.key_hash)
        _trim(self._keys, MAX_KEYS)
        self._hash_by_id[key.key_id] = key.key_hash
        self._hash_by_id.move_to_end(key.key_id)
        _trim(self._hash_by_id, MAX_KEYS)


def _trim(cache: OrderedDict[bytes, KnownKey] | OrderedDict[int, bytes], most: int) -> None:
    while len(cache) > most:
        cache.popitem(last=False)
