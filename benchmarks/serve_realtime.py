# SPDX-License-Identifier: Apache-2.0
"""A client of /v1/realtime that speaks in real time, and waits for the reply."""

import asyncio
import base64
import json
import time
from typing import Any, NamedTuple

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.serve_questions import RATE, Samples

PIECE = RATE // 10  # samples of an event, 100 ms
TIMEOUT = 300.0  # of a reply
MAX_BYTES = 16 << 20  # of an event


class Latency(NamedTuple):
  """Milliseconds from the end of an utterance, or of its parts in the server.

  first_delta: to the first text, as the client sees it. hear: until the utterance is
  heard. prefill: from then to the first token.
  """

  first_delta: float
  hear: float
  prefill: float


async def speak(url: str, samples: Samples, max_tokens: int) -> Latency:
  """Say an utterance in real time, and wait for the reply; RuntimeError if it fails.

  url: of the server, http://HOST:PORT.
  """
  address = f'{url.replace("http", "ws", 1)}/v1/realtime'
  async with connect(address, proxy=None, max_size=MAX_BYTES) as socket:
    await _send(socket, 'session.update', session=_session(max_tokens))
    start = time.monotonic()
    for number, piece in enumerate(
      np.split(samples, range(PIECE, len(samples), PIECE))
    ):
      spoken_at = start + number * PIECE / RATE + len(piece) / RATE
      await asyncio.sleep(spoken_at - time.monotonic())
      audio = base64.b64encode(piece.astype('<i2').tobytes()).decode()
      await _send(socket, 'input_audio_buffer.append', audio=audio)
    end = time.monotonic()
    await _send(socket, 'input_audio_buffer.commit')
    await _send(socket, 'response.create')
    async with asyncio.timeout(TIMEOUT):
      return await _read(socket, end)


def _session(max_tokens: int) -> dict[str, Any]:
  audio = {'format': {'type': 'audio/pcm', 'rate': RATE}, 'turn_detection': None}
  return {
    'type': 'realtime',
    'output_modalities': ['text'],
    'max_output_tokens': max_tokens,
    'audio': {'input': audio},
  }


async def _send(socket: ClientConnection, kind: str, **fields: Any) -> None:
  await socket.send(json.dumps({'type': kind, **fields}))


async def _read(socket: ClientConnection, end: float) -> Latency:
  """Read events until the response is complete."""
  first = None
  async for frame in socket:
    event = json.loads(frame)
    match event['type']:
      case 'error':
        raise RuntimeError(f'/v1/realtime: {event["error"]["message"]}')
      case 'response.output_text.delta' if first is None:
        first = time.monotonic() - end
      case 'response.done':
        response = event['response']
        if first is None or response['status'] not in ('completed', 'incomplete'):
          raise RuntimeError(f'/v1/realtime: no reply: {response["status_details"]}')
        hear, token = (response['timing'][x] for x in ('hear_ms', 'first_token_ms'))
        return Latency(1_000 * first, hear, token - hear)
  raise RuntimeError('/v1/realtime: the server closed the connection')


async def compare(
  url: str, short: list[Samples], long: list[Samples], max_tokens: int
) -> dict[str, Any]:
  """Return the median latencies of short and long utterances, in alternation."""
  found: dict[str, list[Latency]] = {'short': [], 'long': []}
  for pair in zip(short, long, strict=True):
    for name, samples in zip(found, pair, strict=True):
      found[name].append(await speak(url, samples, max_tokens))
  medians = {
    name: Latency(*np.median(values, axis=0).tolist()) for name, values in found.items()
  }
  ratio = medians['long'].first_delta / medians['short'].first_delta
  return {
    'long_utterance_ratio': ratio,
    'utterance_ms': {name: value._asdict() for name, value in medians.items()},
  }
