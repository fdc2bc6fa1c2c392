# SPDX-License-Identifier: Apache-2.0
"""Messages of a request to turns and recordings."""

import base64
import binascii
import collections
import time
from collections.abc import Sequence
from typing import NamedTuple

from acl_jax.serving.errors import APIError
from acl_jax.serving.parts import Heard
from acl_jax.serving.schemas import AudioPart, Message, RefusalPart
from acl_jax.serving.service import Service
from acl_jax.text.templates import Audio, Turn

MAX_REMEMBERED = 1_024  # spoken replies
REMEMBERED_SECONDS = 3_600


class SpokenReplies:
  """The texts of spoken replies, which later requests may name by id."""

  def __init__(self):
    self._texts: collections.OrderedDict[str, tuple[str, float]] = (
      collections.OrderedDict()
    )

  def put(self, id: str, text: str) -> None:
    """Remember a reply for an hour; the oldest are forgotten first."""
    self._texts[id] = text, time.monotonic() + REMEMBERED_SECONDS
    while len(self._texts) > MAX_REMEMBERED:
      self._texts.popitem(last=False)

  def get(self, id: str) -> str | None:
    """Return the text of a reply; None if it is unknown or forgotten."""
    text, expires = self._texts.get(id, ('', 0.0))
    return text if expires > time.monotonic() else None


class EncodedClip(NamedTuple):
  """A recording in base64, and where it is in the request."""

  data: str
  param: str


def parse_messages(
  messages: Sequence[Message], spoken: SpokenReplies
) -> tuple[list[Turn], list[EncodedClip]]:
  """Return the turns and their clips; APIError if a message is empty."""
  turns: list[Turn] = []
  clips: list[EncodedClip] = []
  for number, message in enumerate(messages):
    param = f'messages.{number}'
    content: list[str | Audio] = []
    for index, part in enumerate(message.content):
      if isinstance(part, AudioPart):
        content.append(Audio(len(clips)))
        clips.append(EncodedClip(part.input_audio.data, f'{param}.content.{index}'))
      else:
        content.append(part.refusal if isinstance(part, RefusalPart) else part.text)
    if message.audio is not None:
      content.append(_spoken_text(message, param, spoken))
    if not any(content_part != '' for content_part in content):
      raise APIError(400, f'{param} has neither text nor audio', param=param)
    role = 'system' if message.role == 'developer' else message.role
    turns.append(Turn(role, tuple(content)))
  if turns[-1].role != 'user':
    raise APIError(
      400, 'the last message must be of the user: it is replied to', param='messages'
    )
  return turns, clips


def _spoken_text(message: Message, param: str, spoken: SpokenReplies) -> str:
  assert message.audio is not None
  text = spoken.get(message.audio.id)
  if text is None:
    raise APIError(
      400,
      f'{param}.audio: there is no spoken reply with this id, or it is older than an'
      ' hour; send its transcript as content',
      param=f'{param}.audio',
    )
  return text


async def hear_clips(service: Service, clips: Sequence[EncodedClip]) -> list[Heard]:
  """Hear the clips of a request, whose length together is limited."""
  heard, seconds, limit = [], 0.0, service.limits.max_audio_seconds
  for clip in clips:
    heard.append(await service.hear(_decode_base64(clip), clip.param))
    seconds += heard[-1].seconds
    if seconds > limit:
      message = f'the clips are longer than {limit:g} s together, which is the limit'
      raise APIError(400, message, param='messages')
  return heard


def has_speech(turns: Sequence[Turn], clips: Sequence[Heard]) -> bool:
  """Return whether the last turn has speech in its clips, if it has any."""
  parts = [part for part in turns[-1].content if isinstance(part, Audio)]
  return not parts or any(clips[part.index].has_speech for part in parts)


def _decode_base64(clip: EncodedClip) -> bytes:
  try:
    return base64.b64decode(clip.data, validate=True)
  except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
    hint = ''
    if clip.data[:5].lower() in ('http:', 'https', 'data:', 'file:'):
      hint = '; URLs and files are not read, send the bytes themselves'
    message = f'{clip.param}.input_audio.data is not base64{hint}'
    raise APIError(400, message, param=clip.param) from None
