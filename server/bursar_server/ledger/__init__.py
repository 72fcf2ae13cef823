"""The ledger: immutable entries, each with its debit and its credit account.

It owns the rows of `entries`, how a settlement becomes them, and the proof that balances follow
from them. It refuses to change or remove an entry (a correction is a new one), and to decide what
may be spent: it posts facts.
"""
