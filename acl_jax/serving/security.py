# SPDX-License-Identifier: Apache-2.0
"""Who may ask, how much, and what browsers may do with the answer.

A page of another site must not reach a server on the user's machine: the Host header
must be an IP address or a known name (a site whose name resolves to this machine sends
its own), and the Origin of a browser must be this server, this machine or one that was
allowed.
"""

import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from acl_jax.serving.errors import APIError
from acl_jax.serving.service import Service

# Without a key: the page, and what load balancers ask.
_OPEN = ('/', '/health', '/ready')
_OPEN_FOLDER = '/page/'
# Browsers cannot set headers of a WebSocket; OpenAI's API takes the key like this.
_KEY_PROTOCOL = 'openai-insecure-api-key.'
LOOPBACK_ORIGIN = r'https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?'

CONTENT_SECURITY_POLICY = '; '.join(
  (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "media-src 'self' blob:",
    "img-src 'self' data:",
    "worker-src 'self' blob:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  )
)
SECURITY_HEADERS = {
  'Content-Security-Policy': CONTENT_SECURITY_POLICY,
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'microphone=(self), camera=(), geolocation=()',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
}


class Gate:
  """ASGI middleware: headers, Host, Origin, key, size of the body.

  key: the bearer key; '' for none. origins: allowed besides this machine's own.
  """

  def __init__(
    self, app: ASGIApp, service: Service, key: str = '', origins: Sequence[str] = ()
  ):
    self.app, self.service = app, service
    self._key, self._origins = key.encode(), set(origins)
    self._hosts = {'localhost', *(urlsplit(o).hostname or '' for o in origins)}

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] not in ('http', 'websocket'):
      return await self.app(scope, receive, send)
    headers = Headers(scope=scope)
    is_http = scope['type'] == 'http'
    if is_http:
      send = _with_security_headers(send)
    try:
      self._check(scope, headers)
    except APIError as error:
      if is_http:
        return await error.response()(scope, receive, send)
      return await _deny(WebSocket(scope, receive, send), error)
    if not is_http or not scope['path'].startswith('/v1/'):
      return await self.app(scope, receive, send)
    self.service.requests += 1
    try:
      limited = self._limit_body(receive)
      await self.app(scope, limited, send)
    finally:
      self.service.requests -= 1

  def _check(self, scope: Scope, headers: Headers) -> None:
    host = headers.get('host', '')
    if not self._knows_host(host):
      raise APIError(
        400, f'the host {host[:100]!r} is not served; allow it with --allow_origin'
      )
    self._check_origin(headers.get('origin'), host)
    path = scope['path']
    is_open = path in _OPEN or path.startswith(_OPEN_FOLDER)
    is_preflight = scope.get('method') == 'OPTIONS'  # carries no key
    if self._key and not is_open and not is_preflight:
      self._check_key(scope, headers)
    if path.startswith('/v1/') and not is_preflight:
      self.service.check_open()
    limit = self.service.limits.max_body_bytes
    length = headers.get('content-length', '0')
    if not (length.isascii() and length.isdigit()):
      raise APIError(400, 'Content-Length is not a number')
    if len(length) > 15 or int(length) > limit:
      raise _too_large(limit)

  def _knows_host(self, host: str) -> bool:
    try:
      name = urlsplit(f'//{host}').hostname or ''
      if name in self._hosts:
        return bool(name)
      ipaddress.ip_address(name)
    except ValueError:
      return False
    return True

  def _check_origin(self, origin: str | None, host: str) -> None:
    if origin is None or origin in self._origins:
      return
    try:
      parts = urlsplit(origin)
      is_own = parts.netloc == host or parts.hostname in _LOOPBACK
    except ValueError:
      is_own = False
    if not is_own or parts.scheme not in ('http', 'https'):
      raise APIError(
        403, f'pages of {origin[:100]!r} may not use this server; see --allow_origin'
      )

  def _check_key(self, scope: Scope, headers: Headers) -> None:
    scheme, _, key = headers.get('authorization', '').partition(' ')
    keys = [key.strip()] if scheme.lower() == 'bearer' else []
    for protocol in scope.get('subprotocols', ()):
      if protocol.startswith(_KEY_PROTOCOL):
        keys.append(protocol.removeprefix(_KEY_PROTOCOL))
    if not keys:
      raise APIError(401, 'the API key is missing: send Authorization: Bearer KEY')
    # In constant time; latin-1 is how headers are decoded.
    matches = [hmac.compare_digest(k.encode('latin-1'), self._key) for k in keys]
    if not any(matches):
      raise APIError(401, 'the API key is wrong', code='invalid_api_key')

  def _limit_body(self, receive: Receive) -> Receive:
    """Count what arrives, as a chunked body states no length."""
    limit, size = self.service.limits.max_body_bytes, 0

    async def limited() -> Message:
      nonlocal size
      message = await receive()
      size += len(message.get('body', b''))
      if size > limit:
        raise _too_large(limit)
      return message

    return limited


_LOOPBACK = ('localhost', '127.0.0.1', '::1')


def _too_large(limit: int) -> APIError:
  return APIError(413, f'the request is over the limit of {limit} bytes')


def _with_security_headers(send: Send) -> Send:
  async def wrapped(message: Message) -> None:
    if message['type'] == 'http.response.start':
      headers = MutableHeaders(scope=message)
      for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
      headers.setdefault('Cache-Control', 'no-store')
    await send(message)

  return wrapped


async def _deny(websocket: WebSocket, error: APIError) -> None:
  """Refuse a handshake, with the reason where the server can send one."""
  if 'websocket.http.response' in websocket.scope.get('extensions', {}):
    await websocket.send_denial_response(error.response())
  else:
    await websocket.close(1008)
