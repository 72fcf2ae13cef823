"""Lending: what sidecars hold of budgets, and how their charges come home.

It owns the session stream, `sessions`, `allowances`, `budget_windows` and `draw_sets`, and is the
only writer of balances: other services change limits and keys, and this package applies them. A
session lives `open -> fenced -> closed`; an allowance is granted (committed, then told), partly
settled, renewed, returned, and closed with its session.

It refuses to free money because time passed: a silent sidecar may have spent all it holds. It
refuses grants that do not fit, and never a posted fact. It does not decide who may call which
model (the sidecar does, from the policy told here) nor what a call costs.
"""
