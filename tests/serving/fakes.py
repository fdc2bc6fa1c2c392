# SPDX-License-Identifier: Apache-2.0
"""A model for tests of the server: deterministic, fast, and it fails when it should.

A token is a byte. The reply to a conversation is its last text, or REPLY to audio.
"""

import asyncio
import dataclasses
import hashlib
import io
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import soundfile
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from acl_jax.config.serving import ServeConfig
from acl_jax.generation.live_requests import (
  EngineClosed,
  LiveStatistics,
  LiveToken,
  QueueFull,
  Ticket,
  end,
)
from acl_jax.serving.service import Service
from acl_jax.serving.voice import VoiceError
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.templates import get_template
from acl_jax.text.tokenizer import Backends, Tokenizer, TokenizersBackend

REPLY = 'Größe: 3 €. It is a test, of course! 日本語 is fine.'
WIDTH, STOP = 6, 257
CONTROL = {'<|im_start|>': 256, '<|im_end|>': STOP}


def make_tokenizer() -> Tokenizer:
  """Return a tokenizer of the 256 bytes and two control tokens."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  model = models.BPE({c: i for i, c in enumerate(alphabet)}, [])
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  backends = Backends(*[TokenizersBackend(backend)] * 3)
  return Tokenizer(backends, CONTROL, 258, None, STOP, (STOP,))


class FakeEngine:
  """Emits a token of every running reply in turn, in a thread.

  hold(): stop emitting until `release`. seconds: per step. broken: replies fail.
  """

  def __init__(self, tokenizer: Tokenizer, limits: ServeConfig):
    self.tokenizer, self.limits = tokenizer, limits
    self.statistics = LiveStatistics(limits.slots)
    self.requests = []
    self.text, self.seconds, self.broken = REPLY, 0.0, False
    self._running, self._closed = {}, False
    self._changed = threading.Condition()
    self._free = threading.Event()
    self._free.set()
    threading.Thread(target=self._loop, daemon=True).start()

  def warm_up(self, progress):
    progress('1 of 1')

  def start(self):
    pass

  def hold(self):
    self._free.clear()

  def release(self):
    self._free.set()

  def submit(self, request, on_token):
    length = sum(len(getattr(p, 'embeddings', p)) for p in request.prompt)
    if length + request.max_new_tokens > self.limits.context:
      raise ValueError('too long')
    with self._changed:
      if self._closed:
        raise EngineClosed('closed')
      if len(self._running) >= self.limits.slots + self.limits.max_queue:
        raise QueueFull(self.limits.max_queue, 7)
      ticket = Ticket(request, on_token, length)
      ticket.num_cached = length // 2
      self.requests.append(ticket)
      text = self.text + (f' {request.seed}' if request.sampling.temperature else '')
      ids = [*self.tokenizer.encode(text), STOP]
      self._running[ticket] = iter(enumerate(ids, 1))
      self.statistics.running = len(self._running)
      self._changed.notify_all()
    return ticket

  def close(self, grace_seconds):
    with self._changed:
      self._closed = True
      self._changed.wait_for(lambda: not self._running, grace_seconds)
      for ticket in self._running:
        ticket.cancel()
      self._changed.notify_all()

  def _loop(self):
    while not self._closed or self._running:
      with self._changed:
        self._changed.wait_for(lambda: self._running or self._closed, 0.5)
        for ticket in [t for t in self._running if t.cancelled]:
          self._finish(ticket, end('cancelled'))
      if not self._free.wait(0.01):
        continue
      time.sleep(self.seconds)
      with self._changed:
        for ticket in list(self._running)[: self.limits.slots]:
          self._emit(ticket)

  def _emit(self, ticket):
    number, id = next(self._running[ticket])
    request = ticket.request
    reason = 'stop' if id == STOP else ''
    if not reason and number == request.max_new_tokens:
      reason = 'length'
    top = tuple((i, -1.5 * (i + 1)) for i in range(request.num_top_tokens))
    token = LiveToken(id, -0.25, top, reason)
    if self.broken and number == 4:
      token = end('error')
    self.statistics.tokens += 1
    if token.finish_reason:
      self._finish(ticket, token)
    else:
      ticket.emit(token)

  def _finish(self, ticket, token):
    del self._running[ticket]
    self.statistics.running = len(self._running)
    ticket.emit(token)
    self._changed.notify_all()


@dataclasses.dataclass(frozen=True)
class FakeToken:
  id: int
  text: str
  log_prob: float
  alternatives: tuple[tuple[str, float], ...]
  start: float
  end: float


class FakeListener:
  """Collects what it is given; fails on a sample above `loudest`."""

  def __init__(self, hearing):
    self._hearing, self._parts, self.loudest = hearing, [], 0.9

  def append(self, samples):
    if samples.size and samples.max() > self.loudest:
      raise ValueError('too loud')
    self._parts.append(samples)

  def finish(self):
    return self._hearing.hear(np.concatenate([np.zeros(0, np.float32), *self._parts]))


class FakeHearing:
  """Hears how long a recording is; `recognises` = False: without words."""

  def __init__(self):
    self.recognises, self.seconds = True, 0.0

  def listen(self):
    return FakeListener(self)

  def warm_up(self, progress):
    progress('hearing')

  def hear(self, samples):
    time.sleep(self.seconds)
    seconds = len(samples) / 16_000
    tokens = (
      FakeToken(3, ' four', -0.1, ((' for', -2.5),), 0.0, 0.5),
      FakeToken(4, 'teen', -math.inf, (), 0.5, 0.75),
      FakeToken(5, ' s', -0.2, (), math.nan, math.nan),
    )
    return SimpleNamespace(
      content=hashlib.sha256(samples.tobytes()).hexdigest(),
      embeddings=np.zeros((1 + int(8 * seconds), WIDTH), np.float32),
      transcript='fourteen s' if self.recognises else None,
      tokens=tokens if self.recognises else (),
      seconds=seconds,
      has_speech=bool(np.abs(samples).max(initial=0) > 1e-3),
    )


class FakeVoice:
  """Ten samples a character, of its code; fails on a text that contains `fails_on`."""

  rate = 24_000

  def __init__(self):
    self.spoken, self.fails_on = [], None

  async def start(self):
    if self.fails_on == '':
      raise VoiceError('no program')

  async def close(self):
    pass

  async def speak(self, text):
    if self.fails_on is not None and self.fails_on in text:
      raise VoiceError('the process of the voice ended')
    await asyncio.sleep(0)
    self.spoken.append(text)
    for character in text:
      yield np.full(10, ord(character) % 999, '<i2').tobytes()


def make_service(**limits) -> Service:
  """Return a service that is ready."""
  config = ServeConfig(**{'slots': 3, 'context': 600, 'max_queue': 2, **limits})
  tokenizer = make_tokenizer()
  text = TextFrontend(tokenizer, get_template('chatml'))
  service = Service(
    'tiny',
    SimpleNamespace(text=text),
    FakeEngine(tokenizer, config),
    FakeHearing(),
    FakeVoice(),
    config,
  )
  service.ready = True
  return service


def wav(seconds: float = 0.5, rate: int = 16_000, format: str = 'WAV', **more) -> bytes:
  """Return an encoded tone."""
  tone = 0.3 * np.sin(np.arange(int(seconds * rate)) * 0.2)
  file = io.BytesIO()
  soundfile.write(file, tone, rate, format=format, **more)
  return file.getvalue()
