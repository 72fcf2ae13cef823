"""Reports: sums over committed entries.

It owns no rows: it reads the ledger, and names by their ids. It refuses to change anything, and
nothing knows it.
"""
