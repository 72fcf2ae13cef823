"""Dialects: the providers' own request shapes, read into facts.

Owns: bytes to facts and the few edits a request may get. Pure: no I/O, no prices, no identity.
Refuses: a request whose fields the cost depends on are malformed, naming the field.
"""
