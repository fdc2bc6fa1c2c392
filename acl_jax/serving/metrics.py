# SPDX-License-Identifier: Apache-2.0
"""What /metrics reports, in the format of Prometheus."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_COMPILED = '/jax/core/compile/backend_compile_duration'
CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_RATES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0)
# Name, whether it only grows, and what it is; of `LiveEngine.statistics`.
_ENGINE = (
  ('queued', False, 'requests that wait for a slot'),
  ('running', False, 'slots in use'),
  ('slots', False, 'replies that can be decoded at once'),
  ('tokens', True, 'tokens of replies'),
  ('prefilled_tokens', True, 'tokens of prompts that were computed'),
  ('reused_tokens', True, 'tokens of prompts whose keys and values were in the cache'),
)


class _EngineCollector(Collector):
  """Reads the statistics of the engine when they are asked for."""

  def __init__(self, engine: Any):
    self._engine = engine

  def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    for name, grows, text in _ENGINE:
      kind = CounterMetricFamily if grows else GaugeMetricFamily
      value = getattr(self._engine.statistics, name)
      yield kind(f'acl_jax_engine_{name}', text, value=value)


class Metrics:
  """Counters of a server; each server has its own."""

  def __init__(self, engine: Any):
    self.registry = CollectorRegistry()
    self.registry.register(_EngineCollector(engine))
    self.requests = Counter(
      'acl_jax_requests',
      'answered requests',
      ['route', 'status'],
      registry=self.registry,
    )
    self.compilations = Counter(
      'acl_jax_compilations',
      'programs that were compiled since the server was ready: there should be none',
      registry=self.registry,
    )
    self.heard_seconds = Counter(
      'acl_jax_heard_seconds', 'seconds of audio heard', registry=self.registry
    )
    self.first_token = self._histogram(
      'first_token_seconds', 'from a request to the first token of its reply', _SECONDS
    )
    self.first_audio = self._histogram(
      'first_audio_seconds', 'from a request to the first sound of its reply', _SECONDS
    )
    self.hearing = self._histogram(
      'hearing_seconds', 'to decode and hear a recording', _SECONDS
    )
    self.token_rate = self._histogram(
      'reply_tokens_per_second', 'of a reply after its first token', _RATES
    )

  def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
    return Histogram(f'acl_jax_{name}', text, buckets=buckets, registry=self.registry)

  def count_compilations(self) -> None:
    """Count from now on what this process compiles, or loads from JAX's cache."""

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
      if event == _COMPILED:
        self.compilations.inc()

    jax.monitoring.register_event_duration_secs_listener(count)

  def render(self) -> bytes:
    """Return all metrics."""
    return generate_latest(self.registry)
