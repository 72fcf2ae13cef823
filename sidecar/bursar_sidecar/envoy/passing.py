"""Letting pass what is no call of ours: each message is answered so that nothing changes.

Rules of Envoy: a body in FULL_DUPLEX_STREAMED mode has to be sent back piece by piece, every other
message has to be answered once (`envoy/service/ext_proc/v3/external_processor.proto`).
"""

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from bursar_sidecar.envoy.conversation import Conversation


def pass_on(conversation: Conversation, told: ext_proc.ProcessingRequest, *, duplex: bool) -> None:
    """Say that this goes on as it is. `duplex`: bodies of requests come in full duplex mode."""
    kind = told.WhichOneof("request")
    if kind == "response_body":
        conversation.body(told.response_body.body)
        if told.response_body.end_of_stream:
            conversation.end()
        return
    message = ext_proc.ProcessingResponse()
    if kind == "request_headers":
        message.request_headers.SetInParent()
    elif kind == "response_headers":
        message.response_headers.SetInParent()
    elif kind == "request_body":
        message.request_body.SetInParent()
        if duplex:
            piece = message.request_body.response.body_mutation.streamed_response
            piece.body = told.request_body.body
            piece.end_of_stream = told.request_body.end_of_stream
    elif kind == "request_trailers":
        message.request_trailers.SetInParent()
    elif kind == "response_trailers":
        message.response_trailers.SetInParent()
    else:
        return  # a kind that a later Envoy knows: it was not asked for
    conversation.say(message)
