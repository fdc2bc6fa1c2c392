# SPDX-License-Identifier: Apache-2.0
"""Errors in the shape of OpenAI's API: {"error": {message, type, param, code}}."""

from typing import Any

from absl import logging
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

_TYPES = {
  401: 'authentication_error',
  403: 'permission_error',
  429: 'rate_limit_error',
}


class APIError(Exception):
  """A request that is refused; the message is one sentence for the client.

  param: the field at fault. retry_after: seconds after which to try again.
  """

  def __init__(
    self,
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    retry_after: int | None = None,
  ):
    super().__init__(message)
    self.status, self.message, self.param, self.code = status, message, param, code
    self.headers = {} if retry_after is None else {'Retry-After': str(retry_after)}
    if status == 401:
      self.headers['WWW-Authenticate'] = 'Bearer'

  def body(self) -> dict[str, Any]:
    """Return the JSON body."""
    default = 'server_error' if self.status >= 500 else 'invalid_request_error'
    kind = _TYPES.get(self.status, default)
    error = dict(message=self.message, type=kind, param=self.param, code=self.code)
    return {'error': error}

  def response(self) -> JSONResponse:
    """Return the response."""
    return JSONResponse(self.body(), self.status, self.headers)


async def handle_api_error(request: Request, error: Exception) -> Response:
  """Answer with an `APIError`."""
  assert isinstance(error, APIError)
  return error.response()


async def handle_http_exception(request: Request, error: Exception) -> Response:
  """Answer with an error of Starlette's: an unknown path, a wrong method, a form."""
  assert isinstance(error, HTTPException)
  message = error.detail
  if error.status_code == 404:
    message = f'there is nothing at {request.method} {request.url.path[:200]}'
  elif error.status_code == 405:
    message = f'{request.url.path[:200]} does not take {request.method}'
  response = APIError(error.status_code, message).response()
  response.headers.update(error.headers or {})
  return response


async def handle_bug(request: Request, error: Exception) -> Response:
  """Answer with 500 and no details; the traceback is logged."""
  logging.error('%s %s failed', request.method, request.url.path, exc_info=error)
  return APIError(500, 'the server failed on this request').response()


async def handle_disconnect(request: Request, error: Exception) -> Response:
  """End a request whose client has disconnected; the response is never sent."""
  return Response(status_code=499)


HANDLERS = {
  APIError: handle_api_error,
  ClientDisconnect: handle_disconnect,
  HTTPException: handle_http_exception,
  Exception: handle_bug,
}
