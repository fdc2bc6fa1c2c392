# SPDX-License-Identifier: Apache-2.0
"""The batch engine: a stream of requests in, their responses out as they complete.

The device side is in `prefill_queue` and `slots`. The host side, here, groups prompts
of similar length, sends them ahead, and assigns the outputs to their requests. The host
always reads the output of the previous call, so the device never waits for it.
"""

import collections
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acl_jax.generation import prefill_queue, slots
from acl_jax.generation.prefill_queue import PrefillQueue
from acl_jax.generation.requests import Request, Response, Token, join_tokens
from acl_jax.generation.slots import DecodeLog, DecodeRules
from acl_jax.models.llama import Llama
from acl_jax.runtime.rounding import round_up
from acl_jax.sharding.mesh import batch_parts

FINISH_REASONS = {
  slots.STOP: 'stop',
  slots.LENGTH: 'length',
  slots.REPETITION: 'repetition',
}
CACHE_LENGTH_STEP = 32  # cache lengths are multiples: few shapes, few compilations
MIN_BUCKET = 16  # prompts are padded to 16, 24, 32, 48, 64, 96... tokens
PREFILL_ROWS = 4  # prompts prefilled at once
LOOK_AHEAD = 32  # pending requests searched for prompts of similar length


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """Sizes, which determine all shapes but a prompt's bucket, and decoding rules.

  prompt_length: the limit in tokens, without the shared prefix; it sizes the caches,
  while prefill pads a prompt to its bucket only. prefill_rows: prompts prefilled at
  once; the queue holds at least twice as many.
  """

  slots: int
  prompt_length: int
  max_new_tokens: int
  rules: DecodeRules = DecodeRules()  # noqa: RUF009
  prefill_rows: int = PREFILL_ROWS

  def __post_init__(self):
    for name in ('slots', 'prompt_length', 'max_new_tokens', 'prefill_rows'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be at least 1')


@dataclasses.dataclass
class Statistics:
  """Totals of an engine; `full_*` count only calls with more requests to come."""

  steps: int = 0
  tokens: int = 0
  full_steps: int = 0
  full_tokens: int = 0

  def add(self, steps: int, tokens: int, more_requests: bool) -> None:
    """Add the totals of one call."""
    self.steps, self.tokens = self.steps + steps, self.tokens + tokens
    self.full_steps += steps * more_requests
    self.full_tokens += tokens * more_requests


class Engine:
  """Continuous batching over a fixed number of slots; free slots are refilled at once.

  A response depends on its request alone, not on its neighbours or its slot. One engine
  serves any number of calls of `run` and `stream`; after the first, only a prompt whose
  bucket is new compiles anything.

  shared_prefix: tokens that all prompts begin with; prefilled once.
  """

  def __init__(
    self,
    llama: Llama,
    config: EngineConfig,
    *,
    shared_prefix: Sequence[int] = (),
    seed: int = 0,
  ):
    self.llama, self.config, self.statistics = llama, config, Statistics()
    self.key = jax.random.key(seed)
    # Every device of a mesh gets as many rows; padding rows change no response.
    _, parts = batch_parts(jax.sharding.get_mesh())
    self.prefill_rows = round_up(config.prefill_rows, parts)
    self.num_slots = round_up(config.slots, parts)
    self.max_row_length = len(shared_prefix) + config.prompt_length
    needed = self.max_row_length + config.max_new_tokens
    if needed > (context := llama.config.max_position_embeddings):
      raise ValueError(
        f'prompts of up to {self.max_row_length} tokens and {config.max_new_tokens} new'
        f' tokens exceed the context of {context}'
      )
    self.cache_length = min(round_up(needed, CACHE_LENGTH_STEP), context)
    prefix = jnp.asarray(shared_prefix, jnp.int32)
    self.shared_prefix = prefill_queue.prefill_prefix(llama, prefix)

  def run(self, requests: Iterable[Request]) -> Iterator[Response]:
    """Yield the responses as they complete; ValueError for an invalid request."""
    partial = collections.defaultdict(list)
    for token in self.stream(requests):
      partial[token.request].append(token)
      if token.finish_reason:
        yield join_tokens(partial.pop(token.request))

  def stream(self, requests: Iterable[Request]) -> Iterator[Token]:
    """Yield the tokens of all responses as they come; each response's in order."""
    rules, size = self.config.rules, max(2 * self.prefill_rows, self.num_slots)
    pending = _PendingRequests(requests, self)
    queue = prefill_queue.empty_queue(
      self.llama, size, self.max_row_length, self.shared_prefix
    )
    state = slots.empty_state(self.llama, self.num_slots, self.cache_length, rules)
    numbered: dict[int, Request] = {}
    num_prefilled = num_admitted = 0
    calls: collections.deque[tuple[DecodeLog, bool]] = collections.deque()
    while pending or numbered:
      while pending and num_prefilled - num_admitted + self.prefill_rows <= size:
        group = pending.take_group(self.prefill_rows)
        numbered |= enumerate(group, start=num_prefilled)
        queue = self._prefill(queue, group)
        num_prefilled += len(group)
      more_requests = bool(pending)
      state, log = slots.decode_steps(self.llama, state, queue, more_requests, rules)
      jax.tree.map(lambda x: x.copy_to_host_async(), log)
      calls.append((log, more_requests))
      if len(calls) > 1:
        num_admitted = yield from self._read_log(*calls.popleft(), numbered)

  def _prefill(self, queue: PrefillQueue, group: Sequence[Request]) -> PrefillQueue:
    """Prefill prompts of one bucket; padding prompts complete the group."""
    shape = (self.prefill_rows, self.bucket_length(len(group[0].prompt)))
    first = np.asarray(group[0].prompt)
    prompts = np.zeros((*shape, *first.shape[1:]), first.dtype)
    lengths, max_new_tokens = np.zeros((2, self.prefill_rows), np.int32)
    seeds = np.zeros(self.prefill_rows, np.uint32)
    for row, request in enumerate(group):
      prompts[row, : len(request.prompt)] = request.prompt
      lengths[row], seeds[row] = len(request.prompt), request.seed
      max_new_tokens[row] = request.max_new_tokens or self.config.max_new_tokens
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.key, jnp.asarray(seeds))
    return prefill_queue.prefill(
      self.llama, self.shared_prefix, queue, prompts, lengths, max_new_tokens, keys
    )

  def _read_log(
    self, log: DecodeLog, more_requests: bool, numbered: dict[int, Request]
  ) -> Generator[Token, None, int]:
    """Yield the tokens of one call; return how many requests were admitted by its end.

    numbered: the unfinished requests; finished ones are removed.
    """
    log = jax.tree.map(np.asarray, log)
    num_steps, outputs = int(log.num_steps), log.outputs
    occupied = outputs.request[:num_steps] != slots.FREE
    self.statistics.add(num_steps, int(occupied.sum()), more_requests)
    for index in zip(*np.nonzero(occupied), strict=True):  # (step, slot), by step
      number, reason = int(outputs.request[index]), int(outputs.finish_reason[index])
      finished = reason != slots.CONTINUE
      yield Token(
        request=numbered.pop(number) if finished else numbered[number],
        id=int(outputs.token[index]),
        finish_reason=FINISH_REASONS.get(reason, ''),
        log_prob=np.float32(outputs.log_prob[index]),
        top_ids=np.asarray(outputs.top_ids[index]),
        top_log_probs=np.asarray(outputs.top_log_probs[index]),
      )
    return int(log.num_admitted)

  def bucket_length(self, length: int) -> int:
    """Return the length a prompt is padded to; depends on its own length alone."""
    bucket = MIN_BUCKET
    while bucket < length:  # 16, 24, 32, 48, 64...
      bucket += bucket // 2 if bucket & (bucket - 1) == 0 else bucket // 3
    return min(bucket, self.config.prompt_length)

  def check_request(self, request: Request) -> None:
    """Raise ValueError if the request is invalid or exceeds a limit."""
    limit, prompt = self.config.prompt_length, np.asarray(request.prompt)
    if not 0 < len(prompt) <= limit:
      raise ValueError(
        f'request {request.id!r}: the prompt has {len(prompt)} tokens; it must have 1'
        f' to {limit}'
      )
    if not 0 < (request.max_new_tokens or 1) <= self.config.max_new_tokens:
      raise ValueError(
        f'request {request.id!r}: max_new_tokens is {request.max_new_tokens}; it must'
        f' be 1 to {self.config.max_new_tokens}'
      )
    if prompt.ndim == 1:
      vocab_size = self.llama.config.vocab_size
      if prompt.min() < 0 or prompt.max() >= vocab_size:
        raise ValueError(
          f'request {request.id!r}: prompt has tokens from {prompt.min()} to'
          f' {prompt.max()}; they must be at least 0 and below {vocab_size}'
        )
    elif prompt.shape[1:] != (width := self.llama.config.hidden_size,):
      raise ValueError(
        f'request {request.id!r}: prompt embeddings have shape {prompt.shape}; their'
        f' width must be {width}'
      )
    elif not np.isfinite(prompt).all():  # it would stay in the cache
      raise ValueError(f'request {request.id!r}: prompt embeddings must be finite')


class _PendingRequests:
  """Requests in their order, except that similar lengths are taken together."""

  def __init__(self, requests: Iterable[Request], engine: Engine):
    self.requests, self.engine = iter(requests), engine
    self.pending: list[Request] = []
    self._look_ahead()

  def __bool__(self) -> bool:
    return bool(self.pending)

  def take_group(self, max_size: int) -> list[Request]:
    """Remove and return the first request and others of the same shape soon after."""
    shape = self._prompt_shape(self.pending[0])
    group = [x for x in self.pending if self._prompt_shape(x) == shape][:max_size]
    self.pending = [request for request in self.pending if request not in group]
    self._look_ahead()
    return group

  def _look_ahead(self) -> None:
    missing = LOOK_AHEAD - len(self.pending)
    for request in itertools.islice(self.requests, missing):
      self.engine.check_request(request)
      self.pending.append(request)

  def _prompt_shape(self, request: Request) -> tuple[int, bool]:
    is_tokens = np.ndim(request.prompt[0]) == 0
    return self.engine.bucket_length(len(request.prompt)), is_tokens
