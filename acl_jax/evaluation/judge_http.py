# SPDX-License-Identifier: Apache-2.0
"""A JSON request to a server that may be slow, busy, wrong or hostile."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

TIMEOUT = 60.0  # s, of a request with its reply
MAX_BYTES = 1 << 20  # of a reply
MAX_WAIT = 60.0  # s, that a server may ask to wait
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}

# Sends an object to a URL with headers, and returns the reply.
Post = Callable[[str, Mapping[str, Any], Mapping[str, str]], Any]


class Failure(Exception):
  """A request without a usable reply, such as `returned status 429`.

  retry: whether the same request may succeed later. wait: seconds, as the server asks.
  status: of HTTP; 0 without a reply.
  """

  def __init__(self, problem: str, retry: bool, wait: float = 0.0, status: int = 0):
    super().__init__(problem)
    self.retry, self.wait, self.status = retry, wait, status


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  """Follows no redirect, which would send the key to another server."""

  def redirect_request(self, req, fp, code, msg, headers, newurl):  # noqa: D102
    return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def post_json(url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
  """Post an object and return the JSON of the reply; Failure if there is none."""
  request = urllib.request.Request(
    url,
    json.dumps(body).encode(),
    {'Content-Type': 'application/json', **headers},
    method='POST',
  )
  try:
    with _OPENER.open(request, timeout=TIMEOUT) as response:
      content = _read(response, time.monotonic() + TIMEOUT)
  except urllib.error.HTTPError as error:
    error.close()
    wait = _parse_wait(error.headers.get('Retry-After'))
    problem, retry = f'returned status {error.code}', error.code in RETRIED
    raise Failure(problem, retry, wait, error.code) from None
  except TimeoutError:
    raise Failure(f'did not reply within {TIMEOUT:g} s', retry=True) from None
  except (OSError, http.client.HTTPException) as error:
    reason = getattr(error, 'reason', error)
    if isinstance(reason, TimeoutError):
      raise Failure(f'did not reply within {TIMEOUT:g} s', retry=True) from None
    raise Failure(f'cannot be reached ({reason})', retry=True) from None
  try:
    return json.loads(content)
  except (ValueError, RecursionError):
    raise Failure('returned something that is not JSON', retry=True) from None


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
  """Return the body; TimeoutError after the deadline, however slowly it arrives."""
  content = b''
  while block := response.read1(1 << 16):
    content += block
    if len(content) > MAX_BYTES:
      raise Failure(f'returned more than {MAX_BYTES} bytes', retry=True)
    if time.monotonic() > deadline:
      raise TimeoutError
  return content


def _parse_wait(value: str | None) -> float:
  """Return the seconds of a Retry-After header; 0 for a date or nonsense."""
  try:
    return min(MAX_WAIT, max(0.0, float(value or 0)))
  except ValueError:
    return 0.0
