"""Runs all of Bursar on one machine: embedded Postgres, the parts, and what watches over them.

It owns processes, ports, secrets and logs in one data directory. It decides nothing about money:
what it sets up it asks the control plane for, as any administrator would.
"""
