# SPDX-License-Identifier: Apache-2.0
"""What the server asks of its parts: the engine, the ears, the voice."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from acl_jax.generation.live_requests import LiveRequest, LiveToken


@runtime_checkable
class Ticket(Protocol):
  """A request in the engine; `num_cached` of its `num_prompt` tokens were reused."""

  num_prompt: int
  num_cached: int

  def cancel(self) -> None: ...


@runtime_checkable
class Engine(Protocol):
  """Answers requests in a thread of its own; see `generation.live`."""

  @property
  def statistics(self) -> Any: ...

  def submit(
    self, request: LiveRequest, on_token: Callable[[LiveToken], None]
  ) -> Ticket: ...

  def close(self, grace_seconds: float) -> None: ...


@runtime_checkable
class Heard(Protocol):
  """What was heard of a recording; see `hearing.heard`."""

  @property
  def content(self) -> str: ...

  @property
  def embeddings(self) -> Float[np.ndarray, 's d']: ...

  @property
  def transcript(self) -> str | None: ...

  @property
  def tokens(self) -> Sequence[Any]: ...

  @property
  def seconds(self) -> float: ...

  @property
  def has_speech(self) -> bool: ...


@runtime_checkable
class Listener(Protocol):
  """Hears a recording while it lasts; for one thread at a time."""

  def append(self, samples: Float[np.ndarray, ' samples']) -> None: ...

  def finish(self) -> Heard: ...


@runtime_checkable
class Hearing(Protocol):
  """Samples at 16 kHz to what the LLM reads; blocking and thread-safe."""

  def hear(self, samples: Float[np.ndarray, ' samples']) -> Heard: ...

  def listen(self) -> Listener: ...


@runtime_checkable
class Voice(Protocol):
  """Text to 16-bit mono PCM at `rate`."""

  rate: int

  def speak(self, text: str) -> AsyncIterator[bytes]: ...
