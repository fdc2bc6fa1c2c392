# SPDX-License-Identifier: Apache-2.0
"""A long load on the server, and its memory meanwhile."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.serve_clients import (
  ask_all,
  chat_body,
  open_client,
  question,
  summarise,
)
from benchmarks.serve_process import ServerProcess
from benchmarks.serve_questions import Questions

SAMPLE_SECONDS = 60.0  # between two looks at the memory


async def soak(
  server: ServerProcess, minutes: float, num_clients: int, max_tokens: int
) -> dict[str, Any]:
  """Return requests, errors, and memory at the start and end of a load.

  It begins when every client has had some answers. `memory_mib` is once a minute.
  """
  questions, memory = Questions(seed=1), list[float]()

  def bodies(count: float, until: float) -> Iterator[bytes]:
    while count > 0 and time.monotonic() < until:
      yield chat_body([question(next(questions))], max_tokens)
      count -= 1

  async def watch() -> None:
    while True:
      memory.append(server.memory_mib())
      print(f'memory: {memory[-1]:.0f} MiB', flush=True)
      await asyncio.sleep(SAMPLE_SECONDS)

  async with open_client(server.url) as client:
    warm, endless = bodies(4 * num_clients, float('inf')), float('inf')
    before, _ = await ask_all(client, warm, num_clients)
    start = server.memory_mib()
    watching = asyncio.create_task(watch())
    until = time.monotonic() + 60 * minutes
    answers, seconds = await ask_all(client, bodies(endless, until), num_clients)
    watching.cancel()
  errors = [answer.error for answer in (*before, *answers) if answer.error]
  return {
    'minutes': seconds / 60,
    'requests': len(answers),
    **summarise(answers, seconds),
    'errors': len(errors),
    'first_error': errors[0] if errors else None,
    'memory_mib_start': start,
    'memory_mib_end': server.memory_mib(),
    'memory_mib': memory,
  }
