# SPDX-License-Identifier: Apache-2.0
"""The items of a conversation: messages of text, heard audio and spoken text."""

import asyncio
import dataclasses
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from acl_jax.serving.parts import Heard
from acl_jax.serving.realtime.errors import ClientError
from acl_jax.serving.realtime.spoken import Spoken
from acl_jax.text.templates import Audio, Turn

MAX_ITEMS = 512
MAX_TEXT = 1 << 20  # characters of all items


def new_id(kind: str) -> str:
  """Return an id such as 'item_...'."""
  return f'{kind}_{uuid.uuid4().hex[:21]}'


@dataclasses.dataclass(eq=False)
class Content:
  """A part of an item.

  kind: 'input_text', 'input_audio', 'output_text' or 'output_audio'.
  heard: of audio that was heard or is being heard. spoken: of audio that was sent.
  """

  kind: str
  text: str = ''
  heard: asyncio.Task[Heard] | None = None
  spoken: Spoken | None = None

  def to_json(self) -> dict[str, Any]:
    """Return the part as events show it; audio itself is not kept."""
    if self.kind.endswith('audio'):
      return {'type': self.kind, 'transcript': self.text}
    return {'type': self.kind, 'text': self.text}


@dataclasses.dataclass(eq=False)
class Item:
  """A message; what is forgotten is shown, but no longer read by the model."""

  id: str
  role: str
  content: list[Content]
  status: str = 'completed'
  is_forgotten: bool = False

  def to_json(self) -> dict[str, Any]:
    """Return the item as events show it."""
    return {
      'id': self.id,
      'object': 'realtime.item',
      'type': 'message',
      'status': self.status,
      'role': self.role,
      'content': [content.to_json() for content in self.content],
    }

  @property
  def num_characters(self) -> int:
    """Length of its texts; what was heard counts once it is."""
    return sum(len(content.text) for content in self.content)

  @property
  def seconds(self) -> float:
    """Length of the audio that was heard."""
    heard = [content.heard for content in self.content]
    done = [x.result() for x in heard if x and x.done() and not _has_failed(x)]
    return sum((each.seconds for each in done), 0.0)


class Conversation:
  """The items in order, at most MAX_ITEMS with MAX_TEXT characters."""

  def __init__(self):
    self.id = new_id('conv')
    self._items: list[Item] = []

  def __iter__(self):
    return iter(self._items)

  def __len__(self) -> int:
    return len(self._items)

  def get(self, item_id: str, param: str = 'item_id') -> Item:
    """Return an item; ClientError if there is none with this id."""
    return self._items[self._index(item_id, param)]

  def check_space(self) -> None:
    """Raise ClientError if there is no space for another item."""
    if len(self._items) >= MAX_ITEMS:
      raise ClientError(
        f'the conversation has {MAX_ITEMS} items, the limit; delete some',
        'conversation_full',
      )

  def add(self, item: Item, after: str | None = None) -> str | None:
    """Add an item, at the end by default; return the id of the one before it.

    after: the id of the item before it, or 'root' to be the first.
    """
    if any(item.id == other.id for other in self._items):
      raise ClientError(f'there is already an item {item.id!r}', param='item.id')
    self.check_space()
    characters = sum(i.num_characters for i in self._items) + item.num_characters
    if characters > MAX_TEXT:
      raise ClientError(
        f'the conversation would have {characters} characters; the limit is {MAX_TEXT};'
        ' delete items',
        'conversation_full',
      )
    index = len(self._items)
    if after is not None:
      param = 'previous_item_id'
      index = 0 if after == 'root' else self._index(after, param) + 1
    self._items.insert(index, item)
    return self._items[index - 1].id if index else None

  def delete(self, item_id: str) -> None:
    """Remove an item."""
    del self._items[self._index(item_id, 'item_id')]

  def forget_audio(self, max_seconds: float) -> None:
    """Forget the oldest audio, and what was before it, beyond `max_seconds`."""
    seconds = 0.0
    for index in reversed(range(len(self._items))):
      seconds += self._items[index].seconds
      if seconds > max_seconds:
        forget(self._items[: index + 1])
        return

  def _index(self, item_id: str, param: str) -> int:
    for index, item in enumerate(self._items):
      if item.id == item_id:
        return index
    raise ClientError(
      f'the conversation has no item {item_id!r}', 'item_not_found', param
    )


def _has_failed(future: asyncio.Future[Any]) -> bool:
  return future.cancelled() or future.exception() is not None


def forget(items: Iterable[Item]) -> None:
  """Leave items out of prompts from now on, except for the system's."""
  for item in items:
    if item.role != 'system':
      item.is_forgotten = True
      for content in item.content:
        content.heard = None  # frees its embeddings


def forgettable(items: Sequence[Item]) -> list[Item]:
  """Return the older half of what a prompt has, if it can do without.

  Half, so that the rest stays the same for some turns and is found in the cache. What
  is left begins with the user, and the last turn is never forgotten.
  """
  known = [x for x in items if not x.is_forgotten and x.role != 'system']
  count = len(known) // 2
  while count < len(known) and known[count].role != 'user':
    count += 1
  return known[:count] if count < len(known) else []


def check_answerable(items: Iterable[Item | Turn]) -> None:
  """Raise ClientError unless the last item is the user's."""
  last = [item.role for item in items][-1:]
  if last != ['user']:
    found = f'its last item is of the role {last[0]!r}' if last else 'it is empty'
    raise ClientError(
      f'the conversation has nothing to answer: {found}', 'nothing_to_answer'
    )


async def to_turns(
  instructions: str, items: Iterable[Item]
) -> tuple[list[Turn], list[Heard]]:
  """Wait for what is being heard; return the turns and clips of a prompt.

  Turns of the same role that follow each other become one, because after an
  interruption a template may have no place for them; empty ones are left out.
  """
  parts: list[tuple[str, list[str | Audio]]] = []
  if instructions:
    parts.append(('system', [instructions]))
  clips: list[Heard] = []
  for item in items:
    if item.is_forgotten:
      continue
    content: list[str | Audio] = []
    for part in item.content:
      if part.heard is not None:
        heard = await asyncio.shield(part.heard)
        if len(heard.embeddings):  # there are none of silence
          content.append(Audio(len(clips)))
          clips.append(heard)
      elif part.text:
        content.append(part.text)
    if content and parts and parts[-1][0] == item.role:
      parts[-1][1].extend(['\n', *content])
    elif content:
      parts.append((item.role, content))
  return [Turn(role, tuple(content)) for role, content in parts], clips
