"""What a Check is answered: go on, with which changes; or the answer that the app gets instead.

`envoy/service/auth/v3/external_auth.proto`. Headers travel as `value`: Envoy 1.40 passes over
`raw_value` here, and sends such a header empty.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2

from bursar_sidecar.http_messages import Headers

OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
APPEND: Final = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_OK: Final = 0
_PERMISSION_DENIED: Final = 7
_UNAUTHENTICATED: Final = 16


def allowed(
    *,
    written: Mapping[str, str],
    removed: Iterable[str],
    metadata: Mapping[str, Any],
    told: Headers,
) -> Any:
    """Go on: `written` headers take the place of the app's, `removed` ones are taken off, `told`
    ones are added to the answer."""
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = _OK
    ok = answer.ok_response
    for name, value in written.items():
        ok.headers.append(_option(name, value, OVERWRITE))
    ok.headers_to_remove.extend(name for name in removed if name not in written)
    ok.response_headers_to_add.extend(
        _option(name.decode(), value.decode("latin-1"), OVERWRITE) for name, value in told
    )
    answer.dynamic_metadata.update(metadata)
    return answer


def answered(status: int, headers: Headers, body: bytes) -> Any:
    """The app gets this, and nothing goes on: a refusal, or what the sidecar knows itself."""
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = _UNAUTHENTICATED if status == 401 else _PERMISSION_DENIED
    denied = answer.denied_response
    denied.status.code = status
    seen: set[bytes] = set()
    for name, value in headers:
        # Several budgets are told in several headers of one name.
        denied.headers.append(
            _option(name.decode(), value.decode("latin-1"), APPEND if name in seen else OVERWRITE)
        )
        seen.add(name)
    denied.body = body.decode()
    return answer


def _option(name: str, value: str, action: int) -> Any:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value), append_action=action
    )
