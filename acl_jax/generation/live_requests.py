# SPDX-License-Identifier: Apache-2.0
"""What the live engine takes and gives: requests, tickets, tokens, totals."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float

from acl_jax.generation.extend import MAX_TOP_TOKENS
from acl_jax.generation.sampling import Sampling
from acl_jax.models.llama import LlamaConfig


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddedClip:
  """A recording as the LLM reads it.

  content: names it in the cache; clips of equal content have equal embeddings.
  """

  content: str
  embeddings: Float[np.ndarray, 's d']


@dataclasses.dataclass(frozen=True, eq=False)
class LiveRequest:
  """A prompt to continue: segments of token ids, and clips.

  sampling: its top_k must be 0. seed: determines what is sampled. num_top_tokens: how
  many of the likeliest tokens to report at each step.
  """

  prompt: Sequence[Sequence[int] | EmbeddedClip]
  max_new_tokens: int
  sampling: Sampling = Sampling()  # noqa: RUF009
  seed: int = 0
  num_top_tokens: int = 0


class LiveToken(NamedTuple):
  """A token of a response, or its end without one.

  id: -1 at the end of a response that was cancelled or failed. log_prob: the model's
  own, before temperature and truncation. top: the likeliest tokens and their
  log-probabilities. finish_reason: '', or 'stop' (`id` is the stop token), 'length',
  'cancelled' or 'error'; the last token of a response has one.
  """

  id: int
  log_prob: float
  top: tuple[tuple[int, float], ...]
  finish_reason: str


def end(reason: str) -> LiveToken:
  """Return the end of a response that was cancelled or failed."""
  return LiveToken(-1, 0.0, (), reason)


OnToken = Callable[[LiveToken], None]


class QueueFull(Exception):
  """No more requests are accepted for now; retry_after: in seconds."""

  def __init__(self, limit: int, retry_after: int):
    super().__init__(
      f'{limit} requests are waiting, which is the limit; try again in {retry_after} s'
    )
    self.retry_after = retry_after


class EngineClosed(Exception):
  """The engine no longer accepts requests."""


class Ticket:
  """A request in the engine.

  num_prompt: its positions. num_cached: how many of them were not computed again, known
  once it is admitted.
  """

  def __init__(self, request: LiveRequest, on_token: OnToken, num_prompt: int):
    self.request, self.on_token = request, on_token
    self.num_prompt, self.num_cached = num_prompt, 0
    self._cancelled = threading.Event()

  def cancel(self) -> None:
    """End the response at the next step; nothing happens if it has ended."""
    self._cancelled.set()

  def emit(self, token: LiveToken) -> None:
    """Hand over a token; one whose receiver fails is cancelled."""
    try:
      self.on_token(token)
    except Exception:
      logging.exception('the receiver of a response failed; it is cancelled')
      self.cancel()

  @property
  def cancelled(self) -> bool:
    """Whether `cancel` was called."""
    return self._cancelled.is_set()


@dataclasses.dataclass(frozen=True)
class LiveConfig:
  """Sizes of a live engine, which determine every compiled shape.

  slots: responses decoded at once. context: limit in tokens on a prompt and its
  response together. cached_tokens: of all sequences, and of what is kept of earlier
  ones. max_queue: requests that wait for a slot.
  """

  slots: int = 8
  context: int = 2048
  cached_tokens: int = 16_384
  max_queue: int = 64

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value < 1:
        raise ValueError(f'{name} is {value}; it must be at least 1')
    if self.cached_tokens < self.context:
      raise ValueError(
        f'cached_tokens is {self.cached_tokens}; it must be at least the context of'
        f' {self.context}'
      )


@dataclasses.dataclass
class LiveStatistics:
  """Totals since the start, and what is in the engine now.

  prefilled_tokens: positions of prompts that were computed; reused_tokens: that were
  found in the cache.
  """

  slots: int
  queued: int = 0
  running: int = 0
  requests: int = 0
  responses: int = 0
  cancelled: int = 0
  failed: int = 0
  tokens: int = 0
  prefilled_tokens: int = 0
  reused_tokens: int = 0
  busy_seconds: float = 0.0

  @property
  def seconds_per_response(self) -> float:
    """Time that a response takes the engine on average; a guess before the first."""
    return self.busy_seconds / self.responses if self.responses else 1.0


def check_request(
  request: LiveRequest, length: int, config: LiveConfig, llama: LlamaConfig
) -> None:
  """Raise ValueError if a request of `length` prompt positions cannot be answered."""
  limit, new = config.context, request.max_new_tokens
  if not length or new < 1:
    raise ValueError(f'{length} prompt and {new} new tokens: both must be at least 1')
  if length + new > limit:
    raise ValueError(
      f'the conversation has {length} tokens; the limit is {limit - new}: {limit}'
      f' with max_new_tokens = {new}'
    )
  if request.sampling.top_k:
    raise ValueError(f'top_k is {request.sampling.top_k}; here it must be 0')
  if not 0 <= request.num_top_tokens <= MAX_TOP_TOKENS:
    raise ValueError(
      f'num_top_tokens is {request.num_top_tokens}; it must be 0 to {MAX_TOP_TOKENS}'
    )
  for part in request.prompt:
    if isinstance(part, EmbeddedClip):
      _check_clip(part, llama.hidden_size)
    elif len(part) and not 0 <= min(part) <= max(part) < llama.vocab_size:
      raise ValueError(
        f'the prompt has tokens from {min(part)} to {max(part)}; they must be at least'
        f' 0 and below {llama.vocab_size}'
      )


def _check_clip(clip: EmbeddedClip, hidden_size: int) -> None:
  shape = clip.embeddings.shape
  if len(shape) != 2 or shape[1] != hidden_size:
    raise ValueError(
      f'embeddings have shape {shape}; their width must be {hidden_size}'
    )
  if not np.isfinite(clip.embeddings).all():  # they would stay in the cache
    raise ValueError('embeddings must be finite')
