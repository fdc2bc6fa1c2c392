# SPDX-License-Identifier: Apache-2.0
"""Chat templates: from a conversation of text and audio to the segments of a prompt.

A segment is a tuple of token ids, or an int: the number of an audio clip. Adjacent text
is joined before it is tokenised, so a conversation without audio is one tuple, equal
token for token to what Transformers' `apply_chat_template` makes of it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from acl_jax.text.layout import Segment
from acl_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Audio:
  """The place of an audio clip; `index` is its number among the clips, from 0."""

  index: int = 0


@dataclasses.dataclass(frozen=True)
class Turn:
  """What one role says: text, or text and audio in any order."""

  role: str  # 'system', 'user' or 'assistant'
  content: str | Sequence[str | Audio]


Conversation = Sequence[Turn]
Part = str | Audio
Item = str | Audio | int  # an int is the id of a control token

SMOLLM2_SYSTEM = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
LLAMA2_FRAME = ('[INST]', '[/INST]', '<<SYS>>', '<</SYS>>')


def get_template(name: str) -> Callable[[Conversation, Tokenizer], list[Segment]]:
  """The template called `name`: 'llama2' or 'chatml'."""
  if name not in TEMPLATES:
    raise ValueError(f'no chat template {name!r}; there are {sorted(TEMPLATES)}')
  return TEMPLATES[name]


def chatml(conversation: Conversation, tokenizer: Tokenizer) -> list[Segment]:
  """ChatML as SmolLM2 was tuned on it, with its default system message."""
  _check_roles(conversation)
  start, end = tokenizer.control('<|im_start|>'), tokenizer.control('<|im_end|>')
  if conversation[0].role != 'system':
    conversation = [Turn('system', SMOLLM2_SYSTEM), *conversation]
  items: list[Item] = []
  for turn in conversation:
    items += [start, f'{turn.role}\n', *_parts(turn), end, '\n']
  if conversation[-1].role == 'user':
    items += [start, 'assistant\n']
  return _segments(items, tokenizer)


def llama2(conversation: Conversation, tokenizer: Tokenizer) -> list[Segment]:
  """Llama-2's `[INST]` and `<<SYS>>`; the system message joins the first user turn.

  To Llama-2 these marks are ordinary text, so a turn that holds one could forge a turn
  of another role: like Meta's own code, we refuse it (ValueError).
  """
  _check_roles(conversation)
  if tokenizer.bos_id is None:
    raise ValueError('the llama2 template needs a tokenizer with a start token')
  parts = itertools.chain.from_iterable(map(_parts, conversation))
  for part, mark in itertools.product(parts, LLAMA2_FRAME):
    if isinstance(part, str) and mark in part:
      raise ValueError(f'{mark} frames the turns of Llama-2; it may not be in one')
  system = []
  if conversation[0].role == 'system':
    system = ['<<SYS>>\n', *_parts(conversation[0]), '\n<</SYS>>\n\n']
    conversation = conversation[1:]
  if not conversation:
    raise ValueError('the conversation has no user turn')
  items: list[Item] = []
  for number, turn in enumerate(conversation):
    expected = ('user', 'assistant')[number % 2]
    if turn.role != expected:
      raise ValueError(
        f'turn {number} is of the {turn.role}, not of the {expected}: Llama-2 takes an '
        'optional system turn, then user and assistant alternate'
      )
    parts = _strip([*(system if number == 0 else []), *_parts(turn)])
    if turn.role == 'user':
      items += [tokenizer.bos_id, '[INST] ', *parts, ' [/INST]']
    else:
      items += [' ', *parts, ' ', tokenizer.eos_id]
  return _segments(items, tokenizer)


TEMPLATES = {'chatml': chatml, 'llama2': llama2}


def _check_roles(conversation: Conversation) -> None:
  if not conversation:
    raise ValueError('the conversation has no turns')
  roles = ('system', 'user', 'assistant')
  for number, turn in enumerate(conversation):
    if turn.role not in roles:
      raise ValueError(f'turn {number} has the role {turn.role!r}; roles are {roles}')


def _parts(turn: Turn) -> list[Part]:
  """The content of a turn, adjacent texts joined and empty ones dropped."""
  return _join([turn.content] if isinstance(turn.content, str) else turn.content)


def _join(items: Iterable[Any]) -> list[Any]:
  joined = []
  for item in items:
    if isinstance(item, str) and joined and isinstance(joined[-1], str):
      joined[-1] += item
    elif item != '':
      joined.append(item)
  return joined


def _strip(parts: list[Part]) -> list[Part]:
  """Without white space at either end."""
  if parts and isinstance(parts[0], str):
    parts = [parts[0].lstrip(), *parts[1:]]
  if parts and isinstance(parts[-1], str):
    parts = [*parts[:-1], parts[-1].rstrip()]
  return parts


def _segments(items: Iterable[Item], tokenizer: Tokenizer) -> list[Segment]:
  """Tokenises each run of text; the ids between two audio clips become one tuple."""
  segments: list[Segment] = []
  ids: list[int] = []
  after = 'nothing'
  for item, following in itertools.pairwise([*_join(items), '']):
    if isinstance(item, str):
      if isinstance(following, Audio) and tokenizer.opens_with_space:
        item = item.removesuffix(' ')  # it belongs to the first spoken word: '▁What'
      ids += tokenizer.encode(item, after=after)
    elif isinstance(item, Audio):
      segments += [tuple(ids), item.index]
      ids = []
    else:
      ids.append(item)
    after = 'control' if isinstance(item, int) else 'text'
  return [segment for segment in (*segments, tuple(ids)) if segment != ()]
