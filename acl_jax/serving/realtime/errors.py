# SPDX-License-Identifier: Apache-2.0
"""Errors as the `error` event of OpenAI's Realtime API reports them."""

from typing import Any

from absl import logging

from acl_jax.serving.errors import APIError
from acl_jax.serving.voice import VoiceError


class ClientError(ValueError):
  """A bad event: what is wrong, a code, and the field it is about."""

  def __init__(self, message: str, code: str = 'invalid_value', param: str = ''):
    super().__init__(message)
    self.code, self.param = code, param


def error_body(error: BaseException, event_id: str | None = None) -> dict[str, Any]:
  """Return the `error` of an event; an error of the server itself is logged.

  event_id: of the client's event that caused it.
  """
  body = {'type': 'server_error', 'code': 'server_error', 'message': str(error)}
  body |= {'param': None, 'event_id': event_id}
  if isinstance(error, ClientError):
    body |= {'type': 'invalid_request_error', 'code': error.code}
    body['param'] = error.param or None
  elif isinstance(error, APIError):
    body |= error.body()['error']
  elif isinstance(error, VoiceError):
    body['code'] = 'voice_failed'
  else:
    logging.error('a realtime session met an error', exc_info=error)
    body['message'] = 'the server met an error; its log has the details'
  return body


def short_error(error: BaseException) -> dict[str, Any]:
  """Return why a response failed, as its `status_details` have it."""
  body = error_body(error)
  return {key: body[key] for key in ('type', 'code', 'message')}
