"""Dialects: how apps and providers speak, each a small pure module behind one seam.

Owns: bytes to facts, facts to bytes, and what an answer says of itself. Pure: no I/O, no prices, no
identity. Refuses: a request whose fields the cost depends on are malformed, naming the field.

facts.py: what a request's cost depends on. reading.py: what an answer has said. dialect.py: the
seam, `Dialect` and `Endpoint`. kinds.py: what servers there are. registry.py: which path is whose.
"""
