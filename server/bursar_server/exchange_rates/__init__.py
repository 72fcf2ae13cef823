"""Exchange rates: the platform's and each organization's own, append-only, with their times.

It owns the rows of `exchange_rates`, and says which of them an organization's calls are converted
by. It refuses to change a rate that was recorded: a later one supersedes it. It converts nothing
itself: `bursar.exchange` does, here and in sidecars.
"""
