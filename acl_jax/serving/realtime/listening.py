# SPDX-License-Identifier: Apache-2.0
"""What a session hears: utterances become items and transcripts while they arrive."""

import asyncio
import pathlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from acl_jax.serving.parts import Heard
from acl_jax.serving.realtime import audio
from acl_jax.serving.realtime.errors import ClientError, error_body
from acl_jax.serving.realtime.items import Content, Conversation, Item
from acl_jax.serving.realtime.response import Emit
from acl_jax.serving.realtime.schema import AudioInput
from acl_jax.serving.realtime.utterance import Utterance
from acl_jax.serving.service import Service
from data_pipeline.voice_activity import SpeechModels

MAX_PENDING = 8  # recordings of a session that are being heard; more wait
LOWEST_LOG_PROB = -1e4  # JSON has no infinity


class Ears:
  """What all sessions share: the model of speech, and threads.

  Hearing has threads of its own, because it computes for longer than speech may wait to
  be noticed.
  """

  def __init__(self, service: Service, silero: pathlib.Path | None):
    self.service = service
    self.models = SpeechModels(silero)
    self.detecting = ThreadPoolExecutor(2, 'realtime-vad')
    self.hearing = ThreadPoolExecutor(4, 'realtime-hearing')


class Listening:
  """The input audio of a session.

  on_speech, on_turn: awaited when a turn begins and when it has become an item; only if
  the server detects turns.
  """

  def __init__(
    self,
    ears: Ears,
    emit: Emit,
    conversation: Conversation,
    on_speech: Callable[[], Awaitable[None]],
    on_turn: Callable[[], Awaitable[None]],
  ):
    self._ears, self._emit, self._conversation = ears, emit, conversation
    self._on_speech, self._on_turn = on_speech, on_turn
    self._utterance: Utterance | None = None
    self._watchers: set[asyncio.Task[None]] = set()
    self._buffer = self._make_buffer(AudioInput())

  def configure(self, settings: AudioInput) -> None:
    """Change the format or who ends turns, which drops what is not committed."""
    if settings != self._buffer.settings:
      buffer = self._make_buffer(settings)
      self._drop()
      self._buffer = buffer

  async def append(self, encoded: str) -> None:
    """Take base64 audio."""
    data = audio.decode_pcm(encoded)
    loop = asyncio.get_running_loop()
    append = self._buffer.append
    for action in await loop.run_in_executor(self._ears.detecting, append, data):
      await self._apply(action)

  async def commit(self) -> None:
    """Make an item of the audio since the last commit, if there is space for one."""
    self._conversation.check_space()
    for action in self._buffer.commit():
      await self._apply(action)
    await self._commit()

  async def clear(self) -> None:
    """Drop the audio since the last commit."""
    self._drop()
    await self._emit('input_audio_buffer.cleared')

  def check_length(self, pcm: dict[int, bytes]) -> None:
    """Raise ClientError if audio of a written item is too long to be heard."""
    rate = self._buffer.settings.format.rate
    for index, data in pcm.items():
      if len(data) > 2 * rate * self._max_seconds:
        raise ClientError(
          f'the audio has {len(data) / 2 / rate:.1f} s; the limit is'
          f' {self._max_seconds:g} s',
          param=f'item.content.{index}.audio',
        )

  async def hear(self, item: Item, pcm: dict[int, bytes]) -> None:
    """Hear the audio of a written item; pcm: by the index of the part."""
    rate = self._buffer.settings.format.rate
    for index, data in pcm.items():
      await self._wait_for_space()
      task = asyncio.create_task(self._hear(data, rate))
      item.content[index].heard = task
      self._watch(item, index, task)

  async def close(self) -> None:
    """Stop hearing."""
    self._drop()
    for task in self._watchers:
      task.cancel()
    if self._watchers:
      await asyncio.wait(self._watchers)

  @property
  def _max_seconds(self) -> float:
    return self._ears.service.limits.max_audio_seconds

  def _make_buffer(self, settings: AudioInput) -> audio.InputBuffer:
    return audio.InputBuffer(settings, self._ears.models(), self._max_seconds)

  def _drop(self) -> None:
    self._buffer.clear()
    if self._utterance is not None:
      self._utterance.drop()
      self._utterance = None

  async def _apply(self, action: audio.Action) -> None:
    match action:
      case audio.Started(start_ms):
        self._utterance = self._listen()
        await self._emit(
          'input_audio_buffer.speech_started',
          audio_start_ms=start_ms,
          item_id=self._utterance.id,
        )
        await self._on_speech()
      case audio.Speech(samples):
        if self._utterance is None:
          self._utterance = self._listen()
        self._utterance.append(samples)
      case audio.Stopped(end_ms):
        assert self._utterance is not None
        await self._emit(
          'input_audio_buffer.speech_stopped',
          audio_end_ms=end_ms,
          item_id=self._utterance.id,
        )
        await self._commit()
        await self._on_turn()

  def _listen(self) -> Utterance:
    return Utterance(self._ears.service.hearing.listen(), self._ears.hearing)

  async def _commit(self) -> None:
    utterance, self._utterance = self._utterance, None
    assert utterance is not None
    content = Content('input_audio')
    item = Item(utterance.id, 'user', [content])
    await self._wait_for_space()
    try:
      previous = self._conversation.add(item)
    except ClientError:
      utterance.drop()
      raise
    content.heard = utterance.finish()
    place = {'previous_item_id': previous, 'item': item.to_json()}
    await self._emit(
      'input_audio_buffer.committed', previous_item_id=previous, item_id=item.id
    )
    await self._emit('conversation.item.added', **place)
    await self._emit('conversation.item.done', **place)
    self._watch(item, 0, content.heard)

  async def _wait_for_space(self) -> None:
    """Wait until fewer recordings are being heard; the client has to wait as well."""
    while len(self._watchers) >= MAX_PENDING:
      await asyncio.wait(self._watchers, return_when=asyncio.FIRST_COMPLETED)

  async def _hear(self, data: bytes, rate: int) -> Heard:
    loop = asyncio.get_running_loop()
    pool = self._ears.detecting
    samples = await loop.run_in_executor(pool, audio.resample, data, rate)
    return await self._ears.service.hear_samples(samples)

  def _watch(self, item: Item, index: int, task: asyncio.Task[Heard]) -> None:
    watcher = asyncio.create_task(self._report(item, index, task))
    self._watchers.add(watcher)
    watcher.add_done_callback(self._watchers.discard)

  async def _report(self, item: Item, index: int, task: asyncio.Task[Heard]) -> None:
    """Send the transcript, or why there is none."""
    name, content = 'conversation.item.input_audio_transcription', item.content[index]
    place = {'item_id': item.id, 'content_index': index}
    try:
      heard = await task
    except Exception as error:
      content.heard = None
      await self._emit(f'{name}.failed', error=error_body(error), **place)
      return
    content.text = heard.transcript or ''
    self._conversation.forget_audio(self._max_seconds)
    if heard.transcript is None:
      return
    log_probs = [_log_prob(token) for token in heard.tokens]
    await self._emit(
      f'{name}.delta', delta=heard.transcript, logprobs=log_probs, **place
    )
    await self._emit(
      f'{name}.completed',
      transcript=heard.transcript,
      logprobs=log_probs,
      usage={'type': 'duration', 'seconds': heard.seconds},
      **place,
    )


def _log_prob(token: Any) -> dict[str, Any]:
  """Return a heard token as OpenAI's API does, with what else it may have been."""

  def entry(text: str, log_prob: float) -> dict[str, Any]:
    return {'token': text, 'logprob': max(float(log_prob), LOWEST_LOG_PROB)}

  return {
    **entry(token.text, token.log_prob),
    'bytes': list(token.text.encode('utf-8', 'replace')),
    'alternatives': [entry(*alternative) for alternative in token.alternatives],
  }
