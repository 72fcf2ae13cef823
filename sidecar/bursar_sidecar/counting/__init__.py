"""Exact counts of LLM tokens for the sidecar, made by one small process beside it.

The ranks of a tokenizer cost 80 MB and half a second, so the sidecar never loads them. The process
is started when a count is first needed, serves every worker that shares the directory, and ends
when it has been idle. Nobody depends on it: a count that is late, refused or lost is no count, and
the bound by bytes stands.

frames.py: what travels. work.py: counting. process.py: the process. counter.py: the sidecar's side.
"""
