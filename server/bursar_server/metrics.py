"""What the border of the server counts; each domain defines its own beside its code.

All go to the default registry of prometheus_client and are read at /metrics.
"""

from prometheus_client import Counter, Gauge, Histogram

RPCS = Counter("bursar_rpcs_total", "Remote calls that ended, by how.", ["method", "code"])
RPC_SECONDS = Histogram(
    "bursar_rpc_seconds",
    "Duration of remote calls; of streams, their whole life.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
POOL_SIZE = Gauge("bursar_database_connections", "Connections of the pool to Postgres.")
POOL_IDLE = Gauge("bursar_database_idle_connections", "Those of them that nobody uses now.")
