"""The proxy beside an app: admits, forwards and meters calls from the allowances it holds."""
