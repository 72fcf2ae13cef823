"""How far changes of policy have come.

It owns the question which sidecars may still act on what was before a change, and writes down when
none can any more. It reads changes and sessions, and refuses to change them: services record
changes, and what sessions acknowledge is `allowances`' business.
"""
