"""Who spends: organizations and their teams, projects, users and keys.

It owns these rows and the names in them, and says who a key is. It refuses to know what anybody
may spend: budgets point here, nothing here points at a budget, except that what a budget or an
entry names is not deleted.
"""
