"""The sidecars that are enrolled, and what they hold.

It owns the rows of sidecars and their credentials. It reads sessions and allowances to show them,
and refuses to change them: lending is `allowances`' business alone.
"""
