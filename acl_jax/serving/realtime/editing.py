# SPDX-License-Identifier: Apache-2.0
"""Items that clients write, read, cut and delete."""

import math
from collections.abc import Sequence

from acl_jax.serving.realtime import schema
from acl_jax.serving.realtime.audio import decode_pcm
from acl_jax.serving.realtime.errors import ClientError
from acl_jax.serving.realtime.items import Content, Conversation, Item, new_id

KINDS = {  # of the parts that a role may have; 'text' is an older name
  'system': ('input_text', 'text'),
  'user': ('input_text', 'input_audio', 'text'),
  'assistant': ('output_text', 'text'),
}


def make_item(message: schema.Message) -> tuple[Item, dict[int, bytes]]:
  """Return an item, and the PCM of its parts that are audio; ClientError if invalid."""
  content: list[Content] = []
  pcm: dict[int, bytes] = {}
  for index, part in enumerate(message.content):
    where = f'item.content.{index}'
    if part.type not in (known := KINDS[message.role]):
      raise ClientError(
        f'{where}.type is {part.type!r}; a message of the {message.role} may have'
        f' {", ".join(known)}',
        param=f'{where}.type',
      )
    if part.type == 'input_audio':
      pcm[index] = decode_pcm(part.audio or '', f'{where}.audio')
      if not pcm[index]:
        raise ClientError(f'{where}.audio is empty', param=f'{where}.audio')
      content.append(Content('input_audio'))
    elif part.text is None:
      raise ClientError(f'{where}.text is missing', 'missing_field', f'{where}.text')
    else:
      kind = 'output_text' if message.role == 'assistant' else 'input_text'
      content.append(Content(kind, part.text))
  return Item(message.id or new_id('item'), message.role, content), pcm


def resolve(
  items: Sequence[schema.Message | schema.Reference], conversation: Conversation
) -> list[Item]:
  """Return what a response is to answer instead of the conversation: only texts."""
  resolved = []
  for item in items:
    if isinstance(item, schema.Reference):
      resolved.append(conversation.get(item.id, 'response.input'))
      continue
    made, pcm = make_item(item)
    if pcm:
      raise ClientError(
        'audio in response.input is not supported; create an item and refer to it',
        param='response.input',
      )
    resolved.append(made)
  return resolved


def check_truncation(item: Item, content_index: int, audio_end_ms: int) -> None:
  """Raise ClientError if an answer has no such audio; more of it may follow."""
  if content_index >= len(item.content):
    raise ClientError(
      f'the item has no content part {content_index}', param='content_index'
    )
  content = item.content[content_index]
  if content.spoken is None:
    raise ClientError(
      f'content part {content_index} of the item was not spoken', param='content_index'
    )
  length = content.spoken.milliseconds
  if audio_end_ms > math.ceil(length):
    raise ClientError(
      f'audio_end_ms is {audio_end_ms}; the audio has {length:.0f} ms',
      param='audio_end_ms',
    )


def truncate(item: Item, content_index: int, audio_end_ms: int) -> None:
  """Cut an answer to the text that was played, after `check_truncation`."""
  content = item.content[content_index]
  assert content.spoken is not None
  length = content.spoken.milliseconds
  if item.status != 'completed' or audio_end_ms < math.floor(length):
    content.text = content.spoken.text_until(audio_end_ms)
