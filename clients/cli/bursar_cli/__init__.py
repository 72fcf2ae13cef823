"""The `bursar` program: the admin commands, `up` and the simulated provider."""
