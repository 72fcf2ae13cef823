"""Alerts: what people should know, as budgets and the ledger wrote it down.

It owns how events are read and shown. It refuses to write them: an event is written in the
transaction that made it true, by whoever made it true.
"""
