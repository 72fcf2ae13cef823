"""A provider to test budgets with: answers in three dialects, no model behind, every call counted.

It owns what a provider would own: the answer, the usage it reports, the usage it bills (which may
differ, because that is what is being tested) and a record of every call by id. It refuses what a
provider refuses, in the provider's error shape. It knows nothing of budgets, keys or prices.
"""
