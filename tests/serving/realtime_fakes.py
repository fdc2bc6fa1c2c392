# SPDX-License-Identifier: Apache-2.0
"""A realtime session without a socket, and sounds that a voice detector knows."""

import asyncio
import base64
import contextlib
import json

import numpy as np

from acl_jax.serving.realtime.listening import Ears
from acl_jax.serving.realtime.outbox import Outbox
from acl_jax.serving.realtime.session import Session
from tests.serving import fakes

RATE = 24_000


def make_service(**limits):
  limits = {'max_audio_seconds': 20.0, 'context': 2_000, **limits}
  return fakes.make_service(**limits)


def noise(seconds, level, rate=RATE, seed=0):
  """16-bit noise of this level in dB of full scale."""
  rng = np.random.default_rng(seed)
  samples = rng.normal(size=round(seconds * rate)) * 10 ** (level / 20)
  return (np.clip(samples, -1, 1) * 32_767).astype('<i2').tobytes()


def speech(seconds=0.6, rate=RATE):
  return noise(seconds, -18, rate)


def silence(seconds=0.8, rate=RATE):
  return noise(seconds, -75, rate)


def encode(pcm):
  return base64.b64encode(pcm).decode()


class Talk:
  """Sends events to a session and collects what it answers."""

  def __init__(self, service):
    self.service, self.events = service, []
    self._arrived = asyncio.Condition()
    self.session = Session(Ears(service, None), Outbox(self._receive, lambda: None))
    self._read = 0

  async def _receive(self, text):
    async with self._arrived:
      self.events.append(json.loads(text))
      self._arrived.notify_all()

  async def send(self, kind, **fields):
    await self.session.handle(json.dumps({'type': kind, **fields}))

  async def say(self, pcm, cut=4_800):
    for start in range(0, len(pcm), cut):
      audio = encode(pcm[start : start + cut])
      await self.send('input_audio_buffer.append', audio=audio)

  async def write(self, text, role='user', **more):
    kind = 'output_text' if role == 'assistant' else 'input_text'
    content = [{'type': kind, 'text': text}]
    item = {'type': 'message', 'role': role, 'content': content, **more}
    await self.send('conversation.item.create', item=item)

  async def manual(self, *modalities, **more):
    session = {'audio': {'input': {'turn_detection': None}}, **more}
    await self.send(
      'session.update',
      session={'type': 'realtime', 'output_modalities': modalities, **session},
    )

  async def until(self, kind):
    """Return the next event of a kind; what was before it is skipped."""
    async with asyncio.timeout(20), self._arrived:
      while True:
        for index in range(self._read, len(self.events)):
          if self.events[index]['type'] == kind:
            self._read = index + 1
            return self.events[index]
        await self._arrived.wait()

  def kinds(self):
    return [event['type'] for event in self.events]

  def of(self, kind):
    return [event for event in self.events if event['type'] == kind]


def run(converse, service=None):
  """Run `converse(talk)` in a session."""

  async def main():
    talk = Talk(service or make_service())
    try:
      async with asyncio.timeout(60):
        await talk.session.start()
        await converse(talk)
    finally:
      await talk.session.close()
      with contextlib.suppress(Exception):
        talk.service.engine.release()
        await asyncio.to_thread(talk.service.close, 0.0)

  asyncio.run(main())
