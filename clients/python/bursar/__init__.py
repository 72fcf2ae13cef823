"""Bursar for Python: money, usage, prices, and a client of the control plane."""
