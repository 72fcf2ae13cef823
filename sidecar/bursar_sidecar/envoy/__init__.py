"""Enforcement for calls that an Envoy carries: the services that it asks, over the same admission,
prices and settlement as the data path.

Envoy's own messages come from the package xds-protos, which is imported only where `envoy_address`
is set. Believes what Envoy says of a call (its metadata), never a header that an app could send.

held_calls.py: the calls between their admission and their end. services.py: what is served, one
line each. life.py: from start to end. metadata.py: what one service tells another through Envoy.
rate_limits.py, quotas.py: Envoy's own limit filters; descriptors.py: what a hit is; hit_charges.py
pays it; quota_slices.py: what was lent.
"""
