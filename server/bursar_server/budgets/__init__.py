"""Budgets: a limit in money for one scope and selector, per window of time.

It owns the rows of `budgets`, `budget_versions` and the temporary raises, what makes a budget
acceptable, which window an instant falls into, and which limit is in force at it. It refuses to
change a budget's scope, selector, currency or window (a change is a new budget), to move money
(only the shard's writer changes a budget window), and to reset anything: a window is computed from
time.
"""
