# SPDX-License-Identifier: Apache-2.0
"""Clients of the chat completions: one answer, many at once, a second turn."""

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
import numpy as np

from benchmarks.serve_questions import Questions, as_part

PATH = '/v1/chat/completions'
TIMEOUT = 600.0  # of an answer


@dataclasses.dataclass
class Answer:
  """A streamed answer; times are seconds from the request, None if nothing came.

  usage: tokens as the server counts them. error: '' for a complete answer.
  """

  text: str = ''
  first_token: float | None = None
  first_audio: float | None = None
  usage: dict[str, Any] = dataclasses.field(default_factory=dict)
  error: str = ''

  @property
  def num_tokens(self) -> int:
    """Tokens of the answer, the stop token included."""
    return self.usage.get('completion_tokens', 0)


def open_client(url: str) -> httpx.AsyncClient:
  """Return a client of a server on this machine, without a limit on connections."""
  logging.getLogger('httpx').setLevel(logging.WARNING)  # it logs every request
  limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
  return httpx.AsyncClient(
    base_url=url, trust_env=False, timeout=TIMEOUT, limits=limits
  )


def chat_body(
  messages: Sequence[dict[str, Any]], max_tokens: int, spoken: bool = False
) -> bytes:
  """Return the body of a streamed, greedy request; made before the clock starts."""
  body: dict[str, Any] = {
    'messages': messages,
    'max_completion_tokens': max_tokens,
    'temperature': 0,
    'stream': True,
    'stream_options': {'include_usage': True},
  }
  if spoken:
    body['modalities'] = ['text', 'audio']
    body['audio'] = {'voice': 'default', 'format': 'pcm16'}
  return json.dumps(body).encode()


def question(samples: np.ndarray) -> dict[str, Any]:
  """Return a spoken question as a message."""
  return {'role': 'user', 'content': [as_part(samples)]}


async def ask(client: httpx.AsyncClient, body: bytes) -> Answer:
  """Send a request and read its stream; what fails is in `Answer.error`."""
  answer, start = Answer(), time.perf_counter()
  headers = {'Content-Type': 'application/json'}
  try:
    async with client.stream('POST', PATH, content=body, headers=headers) as response:
      if response.status_code != 200:
        text = (await response.aread())[:300].decode(errors='replace')
        answer.error = f'{response.status_code}: {text}'
        return answer
      answer.error = await _read(answer, response, start)
  except (httpx.HTTPError, ValueError, LookupError) as error:
    answer.error = f'{type(error).__name__}: {error}'
  return answer


async def _read(answer: Answer, response: httpx.Response, start: float) -> str:
  """Fill in an answer; returns what is wrong with the stream."""
  reason = None
  async for line in response.aiter_lines():
    if not (data := line.removeprefix('data: ')):
      continue
    if data == '[DONE]':
      return '' if reason and answer.usage else 'the stream ended too early'
    event = json.loads(data)
    if 'error' in event:
      return str(event['error'])
    answer.usage = event.get('usage') or answer.usage
    for choice in event['choices']:
      reason = choice['finish_reason'] or reason
      fault = _note(answer, choice['delta'], time.perf_counter() - start)
      if fault:
        return fault
  return 'the stream has no end'


def _note(answer: Answer, delta: dict[str, Any], elapsed: float) -> str:
  """Take a delta; returns what is wrong with its sound."""
  audio = delta.get('audio') or {}
  text = delta.get('content') or audio.get('transcript') or ''
  answer.text += text
  if text and answer.first_token is None:
    answer.first_token = elapsed
  if audio.get('data') and answer.first_audio is None:
    answer.first_audio = elapsed
  return str(audio.get('error', ''))


async def ask_all(
  client: httpx.AsyncClient, bodies: Iterable[bytes], num_clients: int
) -> tuple[list[Answer], float]:
  """Let clients ask, each its next question when the last is answered.

  Returns the answers in the order of the questions, and the seconds all took.
  """
  pending, answers = enumerate(bodies), dict[int, Answer]()

  async def work() -> None:
    for index, body in pending:  # shared: each client takes the next one
      answers[index] = await ask(client, body)

  start = time.perf_counter()
  await asyncio.gather(*(work() for _ in range(num_clients)))
  seconds = time.perf_counter() - start
  return [answers[index] for index in sorted(answers)], seconds


async def second_turns(
  client: httpx.AsyncClient, questions: Questions, trials: int, max_tokens: int
) -> tuple[float | None, list[str]]:
  """Return computed over new prompt tokens of second turns, and errors.

  New is what follows the first prompt and its reply. The last token of a reply counts
  as new: it was sampled, but the model has not read it.
  """
  computed, new, errors = 0, 0, []
  for _ in range(trials):
    messages = [question(next(questions))]
    first = await ask(client, chat_body(messages, max_tokens))
    messages += [{'role': 'assistant', 'content': first.text or '-'}]
    messages += [question(next(questions))]
    second = await ask(client, chat_body(messages, max_tokens))
    if failed := [x.error for x in (first, second) if x.error]:
      errors += failed
      continue
    length = second.usage['prompt_tokens']
    computed += length - second.usage['prompt_tokens_details']['cached_tokens']
    new += length - (first.usage['prompt_tokens'] + first.num_tokens - 1)
  return (computed / new if new else None), errors


def summarise(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
  """Return the figures of one number of clients."""
  times = [a.first_token for a in answers if a.first_token is not None]
  return {
    'ttft_ms_p50': percentile(times, 50),
    'ttft_ms_p95': percentile(times, 95),
    'tokens_per_second': sum(a.num_tokens for a in answers) / seconds,
    'errors': sum(bool(a.error) for a in answers),
  }


def percentile(seconds: Sequence[float], q: float) -> float | None:
  """Return a percentile in milliseconds; None of nothing."""
  return 1_000 * float(np.percentile(seconds, q)) if len(seconds) else None
