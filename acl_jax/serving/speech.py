# SPDX-License-Identifier: Apache-2.0
"""A reply that is spoken while it is written: text and sound as one stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

from acl_jax.serving.parts import Voice
from acl_jax.serving.reply import Reply, ReplyPiece
from acl_jax.serving.sentences import split_sentences, take_until_none
from acl_jax.serving.voice import VoiceError


class Sound(NamedTuple):
  """PCM of a reply, 16-bit mono at the rate of the voice."""

  pcm: bytes


class Fault(NamedTuple):
  """The voice failed; the text continues without it."""

  message: str


async def speak_reply(
  reply: Reply, voice: Voice
) -> AsyncGenerator[ReplyPiece | Sound | Fault, None]:
  """Yield the pieces of a reply, and its sound as soon as a sentence is complete."""
  events: asyncio.Queue[ReplyPiece | Sound | Fault | Exception | None] = asyncio.Queue()
  written: asyncio.Queue[str | None] = asyncio.Queue()

  async def write() -> None:
    async for piece in reply:
      events.put_nowait(piece)
      written.put_nowait(piece.text)
    written.put_nowait(None)

  async def speak() -> None:
    try:
      async for sentence in split_sentences(take_until_none(written)):
        async for pcm in voice.speak(sentence):
          events.put_nowait(Sound(pcm))
    except VoiceError as error:
      events.put_nowait(Fault(str(error)))

  async def run() -> None:
    try:
      async with asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(speak())
      events.put_nowait(None)
    except* Exception as errors:
      events.put_nowait(errors.exceptions[0])

  task = asyncio.create_task(run())
  try:
    while (event := await events.get()) is not None:
      if isinstance(event, Exception):
        raise event
      yield event
  finally:
    reply.cancel()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
      await task
