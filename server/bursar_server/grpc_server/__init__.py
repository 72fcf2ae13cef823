"""How the services are reached: one grpc.aio server with authentication and one way to refuse.

It owns the border (who may call, how large, how many at once, how a refusal travels, how to drain)
and refuses to know what any service does.
"""
