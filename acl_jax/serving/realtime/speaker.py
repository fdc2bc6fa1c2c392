# SPDX-License-Identifier: Apache-2.0
"""Speaks a reply sentence by sentence while it is still being written."""

import asyncio
from collections.abc import Awaitable, Callable

from acl_jax.serving.parts import Voice
from acl_jax.serving.realtime.spoken import Spoken
from acl_jax.serving.sentences import split_sentences, take_until_none


class Speaker:
  """Speaks what is written to it, in a task of its own.

  send: takes 16-bit samples. fail: called with the error if the voice fails, which
  ends its speech.
  """

  def __init__(
    self,
    voice: Voice,
    send: Callable[[bytes], Awaitable[None]],
    fail: Callable[[Exception], Awaitable[None]],
  ):
    self._voice, self._send, self._fail = voice, send, fail
    self.spoken, self.has_failed = Spoken(voice.rate), False
    self._pieces: asyncio.Queue[str | None] = asyncio.Queue()  # bounded by the reply
    self._task = asyncio.create_task(self._speak())

  def write(self, text: str) -> None:
    """Add text; returns at once."""
    self.spoken.text += text
    self._pieces.put_nowait(text)

  async def finish(self) -> None:
    """Wait until all that was written is spoken."""
    self._pieces.put_nowait(None)
    await self._task

  async def stop(self) -> None:
    """Fall silent at once."""
    self._task.cancel()
    await asyncio.wait({self._task})

  async def _speak(self) -> None:
    try:
      async for sentence in split_sentences(take_until_none(self._pieces)):
        self.spoken.begin(sentence)
        async for pcm in self._voice.speak(sentence):
          self.spoken.add(pcm)
          await self._send(pcm)
        self.spoken.finish()
    except Exception as error:  # of any kind: the text continues without a voice
      self.has_failed = True
      await self._fail(error)
