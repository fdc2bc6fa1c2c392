# SPDX-License-Identifier: Apache-2.0
"""The batch engine: a stream of prompts in, their responses out as they get done.

What happens on the device is in `waiting_room` and `slots`. Here prompts of like length
are grouped and sent ahead, and what the device says is sorted by request. The host
always looks at what was said a call ago, so the device never waits for it.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

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

ENDINGS = {slots.STOP: 'stop', slots.LENGTH: 'length', slots.REPETITION: 'repetition'}
CACHE_LENGTH_STEP = 32  # the cache is a multiple as long: few lengths, few compilations
MIN_BUCKET = 16  # prompts are padded to 16, 24, 32, 48, 64, 96... tokens
PREFILL_ROWS = 4  # prompts that are read at once
LOOK_AHEAD = 32  # requests among which those of like length are looked for


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """Sizes, which decide the shapes, and rules.

  prompt_length: tokens of a prompt at most, without the prefix.
  """

  slots: int
  prompt_length: int
  max_new_tokens: int
  rules: DecodeRules = DecodeRules()  # noqa: RUF009

  def __post_init__(self):
    for name in ('slots', 'prompt_length', 'max_new_tokens'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}, should be at least 1')


@dataclasses.dataclass
class Statistics:
  """What an engine has done; `full_` is while more requests were to come."""

  steps: int = 0
  tokens: int = 0
  full_steps: int = 0
  full_tokens: int = 0

  def add(self, steps: int, tokens: int, more: bool) -> None:
    """Counts a call."""
    self.steps, self.tokens = self.steps + steps, self.tokens + tokens
    self.full_steps += steps * more
    self.full_tokens += tokens * more


class Engine:
  """Decodes with as many slots as its config says; a free one is refilled at once.

  A response depends on its request alone: not on its neighbours, nor on its slot.
  prefix: the tokens that all prompts begin with; they are read but once.
  """

  def __init__(
    self,
    llama: Llama,
    config: EngineConfig,
    *,
    prefix: Sequence[int] = (),
    seed: int = 0,
  ):
    self.llama, self.config, self.statistics = llama, config, Statistics()
    self.key = jax.random.key(seed)
    _, parts = batch_parts(jax.sharding.get_mesh())
    # What a mesh cuts has equal parts; no response depends on how many there are.
    self.group, self.slots = (
      round_up(PREFILL_ROWS, parts),
      round_up(config.slots, parts),
    )
    self.longest_row = len(prefix) + config.prompt_length
    needed = self.longest_row + config.max_new_tokens
    if needed > (context := llama.config.max_position_embeddings):
      raise ValueError(
        f'a prompt of {self.longest_row} and {config.max_new_tokens} new tokens exceed'
        f' the context of {context}'
      )
    self.places = min(round_up(needed, CACHE_LENGTH_STEP), context)
    self.prefix = prefill_queue.prefill_prefix(llama, jnp.asarray(prefix, jnp.int32))

  def run(self, requests: Iterable[Request]) -> Iterator[Response]:
    """The responses, as they get done; ValueError for a request that cannot be met."""
    growing = collections.defaultdict(list)
    for token in self.stream(requests):
      growing[token.request].append(token)
      if token.finish_reason:
        yield join_tokens(growing.pop(token.request))

  def stream(self, requests: Iterable[Request]) -> Iterator[Token]:
    """The tokens of all responses, as they come; those of one are in order."""
    config = self.config
    size = max(2 * self.group, self.slots)
    queue = _RequestQueue(requests, self)
    room = prefill_queue.empty_queue(self.llama, size, self.longest_row, self.prefix)
    state = slots.empty_state(self.llama, self.slots, self.places, config.rules)
    numbered: dict[int, Request] = {}
    arrived = started = 0
    calls: collections.deque[tuple[DecodeLog, bool]] = collections.deque()
    while queue or numbered:
      while queue and arrived - started + self.group <= size:
        group = queue.take(self.group)
        numbered |= zip(range(arrived, arrived + len(group)), group, strict=False)
        room, arrived = self._prefill(room, group), arrived + len(group)
      more = bool(queue)
      state, log = slots.decode_steps(self.llama, state, room, more, config.rules)
      jax.tree.map(lambda x: x.copy_to_host_async(), log)
      calls.append((log, more))
      if len(calls) > 1:
        started = yield from self._read(*calls.popleft(), numbered)

  def _prefill(self, room: PrefillQueue, group: Sequence[Request]) -> PrefillQueue:
    """Sends prompts of one bucket, padded to a group."""
    shape = (self.group, self.bucket(len(group[0].prompt)))
    first = np.asarray(group[0].prompt)
    prompts = np.zeros((*shape, *first.shape[1:]), first.dtype)
    length, limit, seed = np.zeros((3, self.group), np.uint32)
    for row, request in enumerate(group):
      prompts[row, : len(request.prompt)] = request.prompt
      length[row], seed[row] = len(request.prompt), request.seed
      limit[row] = request.max_new_tokens or self.config.max_new_tokens
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.key, jnp.asarray(seed))
    lengths = (x.astype(np.int32) for x in (length, limit))
    return prefill_queue.prefill(self.llama, self.prefix, room, prompts, *lengths, keys)

  def _read(self, log: DecodeLog, more: bool, numbered: dict[int, Request]):
    """The tokens of a call; returns how many requests had started by its end."""
    log = jax.tree.map(np.asarray, log)
    steps, said = int(log.steps), log.said
    spoken = said.request[:steps] != slots.FREE
    self.statistics.add(steps, int(spoken.sum()), more)
    for place in zip(*np.nonzero(spoken), strict=True):  # step by step
      number, ending = int(said.request[place]), int(said.ending[place])
      request = numbered[number] if ending == slots.CONTINUE else numbered.pop(number)
      yield Token(
        request=request,
        id=int(said.token[place]),
        finish_reason=ENDINGS.get(ending, ''),
        log_prob=np.float32(said.log_prob[place]),
        top_ids=np.asarray(said.top_ids[place]),
        top_log_probs=np.asarray(said.top_log_probs[place]),
      )
    return int(log.started)

  def bucket(self, length: int) -> int:
    """The length that a prompt is padded to; it depends on nothing but its own."""
    bucket = MIN_BUCKET
    while bucket < length:  # 16, 24, 32, 48, 64...
      bucket += bucket // 2 if bucket & (bucket - 1) == 0 else bucket // 3
    return min(bucket, self.config.prompt_length)

  def check(self, request: Request) -> None:
    """ValueError unless the request can be met."""
    limit, prompt = self.config.prompt_length, np.asarray(request.prompt)
    if not 0 < len(prompt) <= limit:
      raise ValueError(
        f'request {request.id!r}: a prompt of {len(prompt)} tokens; it takes 1 to'
        f' {limit}'
      )
    if not 0 < (request.max_new_tokens or 1) <= self.config.max_new_tokens:
      raise ValueError(
        f'request {request.id!r}: max_new_tokens is {request.max_new_tokens}, should be'
        f' 1 to {self.config.max_new_tokens}'
      )
    if prompt.ndim == 1:
      size = self.llama.config.vocab_size
      if prompt.min() < 0 or prompt.max() >= size:
        raise ValueError(f'request {request.id!r}: tokens should be below {size}')
    elif prompt.shape[1:] != (width := self.llama.config.hidden_size,):
      raise ValueError(
        f'request {request.id!r}: embeddings of shape {prompt.shape}, their width'
        f' should be {width}'
      )
    elif not np.isfinite(prompt).all():  # it would stay in the cache
      raise ValueError(f'request {request.id!r}: embeddings should be finite')


class _RequestQueue:
  """Requests in their order, but that some of like length are taken together."""

  def __init__(self, requests: Iterable[Request], engine: Engine):
    self.requests, self.engine = iter(requests), engine
    self.next: list[Request] = []
    self._look_ahead()

  def __bool__(self) -> bool:
    return bool(self.next)

  def take(self, most: int) -> list[Request]:
    """The first, and others of the same bucket that come soon after it."""
    kind = self._kind(self.next[0])
    group = [request for request in self.next if self._kind(request) == kind][:most]
    self.next = [request for request in self.next if request not in group]
    self._look_ahead()
    return group

  def _look_ahead(self) -> None:
    missing = LOOK_AHEAD - len(self.next)
    for request in itertools.islice(self.requests, missing):
      self.engine.check(request)
      self.next.append(request)

  def _kind(self, request: Request) -> tuple[int, bool]:
    tokens = np.ndim(request.prompt[0]) == 0
    return self.engine.bucket(len(request.prompt)), tokens
