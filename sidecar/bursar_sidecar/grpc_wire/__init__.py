"""gRPC as a server, over HTTP/2 frames that this package reads and writes itself.

For services that are asked several times in each call of an app's, as Envoy asks: grpc.aio takes
a thread's hand-over for every message that is read and for every one that is written, which is
nearly all that such a service costs (`benchmarks.envoy`, docs/performance.md). Here whatever came
in one read of the socket is handled in one go, and whatever was written meanwhile leaves in one
write.

It serves the handlers that grpc.aio serves (`grpc.RpcMethodHandler`), to any gRPC client. It
refuses compressed messages, which the protocol lets a server refuse, and keeps no deadlines: a
client whose deadline has passed resets its stream, which cancels the handler.

frames.py: frames, settings and errors of RFC 9113, as bytes. heads.py: the head of a request
(HPACK, RFC 7541), and those of answers. rpc.py: one rpc, its messages and what its handler may do.
connection.py: one connection: frames in, frames out, both windows. listening.py: the server.
"""
