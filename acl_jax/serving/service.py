# SPDX-License-Identifier: Apache-2.0
"""What all routes share: hearing, replying, speaking, limits and metrics."""

import asyncio
import concurrent.futures
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from acl_jax.config.serving import ServeConfig
from acl_jax.generation.live_requests import (
  EmbeddedClip,
  EngineClosed,
  LiveRequest,
  QueueFull,
)
from acl_jax.generation.sampling import Sampling
from acl_jax.serving.errors import APIError
from acl_jax.serving.metrics import Metrics
from acl_jax.serving.parts import Engine, Heard, Hearing, Voice
from acl_jax.serving.reply import Reply, ReplyOptions
from acl_jax.text.templates import Turn
from data_pipeline import audio
from data_pipeline.audio import AudioError

HEARING_THREADS = 2
MAX_CHARACTERS_PER_TOKEN = 32  # a text with more is not even tokenised
_SHUTTING_DOWN = 'the server is shutting down'

Samples = Float32[np.ndarray, ' samples']


class Service:
  """A model that hears, replies and speaks.

  name: of the model in requests. assistant: its `text` is used. voice: None for a
  server without one. ready: whether everything is compiled. closing: whether new
  requests are refused, because the server shuts down.
  """

  def __init__(
    self,
    name: str,
    assistant: Any,
    engine: Engine,
    hearing: Hearing,
    voice: Voice | None,
    limits: ServeConfig,
  ):
    self.name, self.assistant, self.limits = name, assistant, limits
    self.engine, self.hearing, self.voice = engine, hearing, voice
    self.created = int(time.time())
    self.metrics = Metrics(engine)
    self.ready = self.closing = False
    self.requests = 0  # that are being answered
    self._replies: set[Reply] = set()
    self._hearing = concurrent.futures.ThreadPoolExecutor(
      HEARING_THREADS, thread_name_prefix='hearing'
    )
    self._num_hearing = 0

  @property
  def is_idle(self) -> bool:
    """Whether no request is being answered."""
    return not (self.requests or self._replies)

  def check_open(self) -> None:
    """Raise APIError 503 unless the server takes requests."""
    if self.closing:
      raise APIError(503, _SHUTTING_DOWN, retry_after=5)
    if not self.ready:
      raise APIError(503, 'the model is still loading', retry_after=5)

  def check_model(self, name: str) -> None:
    """Raise APIError 404 for the name of another model; '' is the only one."""
    if name not in ('', self.name):
      raise APIError(
        404,
        f'there is no model {name[:100]!r}; this server has {self.name!r}',
        param='model',
        code='model_not_found',
      )

  def check_voice(self) -> None:
    """Raise APIError 503 if the server has no voice."""
    if self.voice is None:
      raise APIError(503, 'this server has no voice', code='no_voice')

  async def hear(self, data: bytes, name: str) -> Heard:
    """Decode and hear a recording; APIError if it cannot be used.

    name: of the recording in errors, and the parameter at fault.
    """
    return await self._hear(functools.partial(self._decode, data, name), name)

  async def hear_samples(self, samples: Samples) -> Heard:
    """Hear 16 kHz samples in -1..1; APIError if they cannot be used."""
    return await self._hear(lambda: samples, 'audio')

  def reply(
    self, turns: Sequence[Turn], clips: Sequence[Heard], options: ReplyOptions
  ) -> Reply:
    """Reply to a conversation; `Audio(i)` in a turn is `clips[i]`.

    APIError if the conversation is invalid or too long, or there is no space for it.
    """
    self.check_open()
    prompt, length = self._prompt(turns, clips)
    space = self.limits.context - length
    if space < 1:
      raise self._too_long(f'{length} tokens')
    wanted = options.max_new_tokens or self.limits.max_new_tokens
    tokenizer = self.assistant.text.tokenizer
    reply = Reply(tokenizer, options.stop, self._on_end)
    try:
      request = LiveRequest(
        prompt,
        min(wanted, space),
        Sampling(options.temperature, top_p=options.top_p),
        options.seed,
        options.num_top_tokens,
      )
      reply.attach(self.engine.submit(request, reply.on_token))
    except ValueError as error:
      raise APIError(400, str(error)) from None
    except QueueFull as error:
      raise APIError(
        429, str(error), code='queue_full', retry_after=error.retry_after
      ) from None
    except EngineClosed:
      raise APIError(503, _SHUTTING_DOWN, retry_after=5) from None
    self._replies.add(reply)
    return reply

  def close(self, grace_seconds: float) -> None:
    """Close the engine; replies have `grace_seconds` to end. Blocking."""
    self.closing = True
    self._hearing.shutdown(wait=False, cancel_futures=True)
    self.engine.close(grace_seconds)

  def _decode(self, data: bytes, name: str) -> Samples:
    limits = audio.Limits(seconds=self.limits.max_audio_seconds)
    return audio.read(data, limits=limits, name=name)

  async def _hear(self, samples: Callable[[], Samples], name: str) -> Heard:
    self.check_open()
    if self._num_hearing >= self.limits.max_queue:
      message = f'{self._num_hearing} recordings are waiting, which is the limit'
      raise APIError(429, message, code='queue_full', retry_after=2)
    start = time.monotonic()
    self._num_hearing += 1
    future = self._hearing.submit(lambda: self.hearing.hear(samples()))
    future.add_done_callback(self._heard(asyncio.get_running_loop()))
    try:
      heard = await asyncio.wrap_future(future)
    except AudioError as error:
      raise APIError(400, str(error), param=name, code='invalid_audio') from None
    except ValueError as error:
      raise APIError(400, f'{name}: {error}', param=name) from None
    self.metrics.hearing.observe(time.monotonic() - start)
    self.metrics.heard_seconds.inc(heard.seconds)
    return heard

  def _heard(self, loop: asyncio.AbstractEventLoop) -> Callable[[Any], None]:
    """Return a callback for the end of a job, which may be after its client left."""

    def count() -> None:
      self._num_hearing -= 1

    def done(future: Any) -> None:
      if not loop.is_closed():
        loop.call_soon_threadsafe(count)

    return done

  def _prompt(
    self, turns: Sequence[Turn], clips: Sequence[Heard]
  ) -> tuple[list[Sequence[int] | EmbeddedClip], int]:
    """Return the segments of the prompt and their length in tokens."""
    parts = [[t.content] if isinstance(t.content, str) else t.content for t in turns]
    characters = sum(len(p) for turn in parts for p in turn if isinstance(p, str))
    if characters > MAX_CHARACTERS_PER_TOKEN * self.limits.context:
      raise self._too_long(f'{characters} characters')
    try:
      segments = self.assistant.text.conversation_prompt(turns)
    except ValueError as error:
      raise APIError(400, str(error), param='messages') from None
    prompt: list[Sequence[int] | EmbeddedClip] = []
    length = 0
    for segment in segments:
      if isinstance(segment, int):
        clip = clips[segment]
        prompt.append(EmbeddedClip(clip.content, clip.embeddings))
        length += len(clip.embeddings)
      else:
        prompt.append(segment)
        length += len(segment)
    return prompt, length

  def _too_long(self, size: str) -> APIError:
    message = (
      f'the conversation has {size}; the limit is {self.limits.context} tokens with'
      ' the reply'
    )
    code = 'context_length_exceeded'
    return APIError(400, message, param='messages', code=code)

  def _on_end(self, reply: Reply) -> None:
    self._replies.discard(reply)
    timing, tokens = reply.timing, reply.usage.completion_tokens
    if timing.first_token is not None:
      self.metrics.first_token.observe(timing.first_token - timing.start)
      if timing.end is not None and tokens > 1:
        seconds = max(timing.end - timing.first_token, 1e-3)
        self.metrics.token_rate.observe((tokens - 1) / seconds)
