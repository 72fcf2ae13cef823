"""Money for calls that apps make themselves: the local gRPC service.

Owns: reservations that are handed out (their deadlines, their idempotency) and how requests,
answers and refusals travel. Admission, prices and settlement are those of the data path. Refuses:
what it does not understand, naming the field, and words about reservations of other keys.

reservations.py: the registry; pure. border.py: requests, checked. bounds.py: what a call can cost.
evidence.py: what it cost. till.py: the verbs. refusing.py: how a refusal travels. service.py:
messages and streams. server.py: where it listens. handed_out.py: what is kept and shown.
"""
