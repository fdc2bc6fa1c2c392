# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests: read in time, checked against a schema, dropped with clients."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pydantic
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from acl_jax.serving.errors import APIError
from acl_jax.serving.events import wait_for_disconnect
from acl_jax.serving.schemas import PART_KINDS

BODY_SECONDS = 60.0  # in which a body must arrive
_MAX_FIELDS, _MAX_FIELD_BYTES = 32, 64 << 10  # of a form, besides its file

Schema = TypeVar('Schema', bound=pydantic.BaseModel)
Result = TypeVar('Result')


async def read_json(request: Request, schema: type[Schema]) -> Schema:
  """Read and check a JSON body; APIError names the field at fault."""
  _check_type(request, 'application/json')
  async with _in_time():
    body = await request.body()
  try:
    return await asyncio.to_thread(schema.model_validate_json, body)
  except pydantic.ValidationError as error:
    raise _explain(error) from None


@contextlib.asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[FormData]:
  """Read a form with one file, which is closed at the end."""
  _check_type(request, 'multipart/form-data')
  async with _in_time():
    await request.body()  # all of it, or nothing is parsed
  try:
    form = await request.form(
      max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
    )
  except HTTPException as error:
    raise APIError(400, f'the form is damaged: {error.detail}') from None
  except (ValueError, LookupError):  # bad headers, an unknown charset
    raise APIError(400, 'the form is damaged') from None
  try:
    yield form
  finally:
    await form.close()


def check_form(schema: type[Schema], values: dict[str, Any]) -> Schema:
  """Check the fields of a form."""
  try:
    return schema.model_validate(values)
  except pydantic.ValidationError as error:
    raise _explain(error) from None


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
  """Await `work`; cancel it when the client is gone, and raise ClientDisconnect."""
  task = asyncio.ensure_future(work)
  gone = asyncio.ensure_future(wait_for_disconnect(request.receive))
  try:
    await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
      return task.result()
    raise ClientDisconnect
  finally:
    for each in (task, gone):
      each.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
      await task


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
  try:
    async with asyncio.timeout(BODY_SECONDS):
      yield
  except TimeoutError:
    message = f'the body did not arrive within {BODY_SECONDS:g} s'
    raise APIError(408, message) from None


def _check_type(request: Request, expected: str) -> None:
  stated = request.headers.get('content-type', '').split(';')[0].strip().lower()
  if stated != expected:
    raise APIError(
      415, f'Content-Type is {stated[:100]!r}; this route takes {expected}'
    )


def _explain(error: pydantic.ValidationError) -> APIError:
  """Return the first fault as one sentence."""
  first = error.errors(include_url=False, include_input=False, include_context=False)[0]
  path = [*first['loc']]
  # The kind of a part is no key: messages.0.content.1.[text.]text
  path = [x for i, x in enumerate(path) if not (x in PART_KINDS and _is_index(path, i))]
  param = '.'.join(map(str, path))[:200] or None
  message = ' '.join(first['msg'].removeprefix('Value error, ').split())[:300]
  if first['type'] == 'json_invalid':
    return APIError(400, f'the body is not JSON: {message}')
  if first['type'] == 'extra_forbidden':
    message = 'this server does not know this parameter'
  return APIError(400, f'{param}: {message}' if param else message, param=param)


def _is_index(path: list[int | str], i: int) -> bool:
  return i > 0 and isinstance(path[i - 1], int)
