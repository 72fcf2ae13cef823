"""Prices: the built-in snapshot and the operator's own prices above it, each with its history.

It owns the rows of `price_lists` and `prices`, and says which prices are laid over the snapshot
for an organization. It refuses prices that can't price a call, and to change a price that was in
force: a new one ends it. It computes no charge itself: `bursar.pricing` does, here and in sidecars.
"""
