"""Several processes behind the same addresses, each a whole sidecar of its own.

A supervisor opens the sockets, starts the workers, starts again who dies, hands settings down, and
answers for all of them on the admin address. It holds no money and touches no call. Each worker has
its own session, journal and share of what is lent: to the control plane they are lives of one
sidecar that run side by side.
"""
