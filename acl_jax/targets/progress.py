# SPDX-License-Identifier: Apache-2.0
"""Status of a decode job: tokens per second and busy slots."""

import time

from acl_jax.generation.engine import Statistics


class ThroughputStatus:
  """Status line of an engine with `slots` slots, from the responses so far."""

  def __init__(self, statistics: Statistics, slots: int):
    self.statistics, self.slots = statistics, slots
    self.tokens, self.start = 0, time.monotonic()

  def add_response(self, tokens: int) -> str:
    """Count the tokens of a response; return the status."""
    self.tokens += tokens
    seconds = max(time.monotonic() - self.start, 1e-9)
    busy = self.statistics.tokens / max(self.statistics.steps * self.slots, 1)
    return f'{self.tokens / seconds:.0f} tokens/s, slots {busy:.0%} busy'
