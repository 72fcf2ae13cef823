"""The control plane: who may spend, what was spent, what is lent. It never sees a call itself."""
