"""Budgets: a limit in money for one scope and selector, per window of time.

It owns the rows of `budgets` and `budget_versions`, what makes a budget acceptable, and which
window an instant falls into. It refuses to change a budget's scope, selector, currency or window
(a change is a new budget), to move money (only the shard's writer changes a budget window), and to
reset anything: a window is computed from time.
"""
