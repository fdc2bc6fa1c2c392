# SPDX-License-Identifier: Apache-2.0
"""Chat templates: from a conversation of text and audio to the segments of a prompt.

A segment is a tuple of token ids, or an int: the index of an audio clip. Adjacent texts
are joined before tokenisation, so a conversation without audio is one tuple, equal
token for token to the output of Transformers' `apply_chat_template`.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from acl_jax.text.layout import Segment
from acl_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Audio:
  """A placeholder for an audio clip; `index` counts the clips from 0."""

  index: int = 0


@dataclasses.dataclass(frozen=True)
class Turn:
  """A message of one role: text, or text and audio in any order."""

  role: str  # 'system', 'user' or 'assistant'
  content: str | Sequence[str | Audio]


Conversation = Sequence[Turn]
Template = Callable[[Conversation, Tokenizer], list[Segment]]
Part = str | Audio
PromptItem = str | Audio | int  # text, a clip, or the id of a control token

SMOLLM2_SYSTEM = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
LLAMA2_MARKERS = ('[INST]', '[/INST]', '<<SYS>>', '<</SYS>>')


def get_template(name: str) -> Template:
  """Return the template called `name`: 'llama2' or 'chatml'; ValueError if unknown."""
  if name not in TEMPLATES:
    raise ValueError(f'no chat template {name!r}; known: {sorted(TEMPLATES)}')
  return TEMPLATES[name]


def chatml(conversation: Conversation, tokenizer: Tokenizer) -> list[Segment]:
  """Apply ChatML as SmolLM2 was tuned on it, with its default system message."""
  check_roles(conversation)
  start, end = tokenizer.control_id('<|im_start|>'), tokenizer.control_id('<|im_end|>')
  if conversation[0].role != 'system':
    conversation = [Turn('system', SMOLLM2_SYSTEM), *conversation]
  items: list[PromptItem] = []
  for turn in conversation:
    items += [start, f'{turn.role}\n', *join_parts(turn), end, '\n']
  if conversation[-1].role == 'user':
    items += [start, 'assistant\n']
  return make_segments(items, tokenizer)


def llama2(conversation: Conversation, tokenizer: Tokenizer) -> list[Segment]:
  """Apply Llama-2's `[INST]` and `<<SYS>>`; the system message joins the first turn.

  To Llama-2 these markers are ordinary text, so a turn that contains one could forge a
  turn of another role. Like Meta's own code, this raises ValueError instead.
  """
  check_roles(conversation)
  if tokenizer.bos_id is None:
    raise ValueError('the llama2 template needs a tokenizer with a start token')
  refuse_markers(conversation, LLAMA2_MARKERS, 'Llama-2')
  system = []
  if conversation[0].role == 'system':
    system = ['<<SYS>>\n', *join_parts(conversation[0]), '\n<</SYS>>\n\n']
    conversation = conversation[1:]
  if not conversation:
    raise ValueError('the conversation has no user turn')
  items: list[PromptItem] = []
  for number, turn in enumerate(conversation):
    expected = ('user', 'assistant')[number % 2]
    if turn.role != expected:
      raise ValueError(
        f'turn {number} has the role {turn.role!r}, not {expected!r}: Llama-2 takes an'
        ' optional system turn, then user and assistant turns in alternation'
      )
    parts = _strip_ends([*(system if number == 0 else []), *join_parts(turn)])
    if turn.role == 'user':
      items += [tokenizer.bos_id, '[INST] ', *parts, ' [/INST]']
    else:
      items += [' ', *parts, ' ', tokenizer.eos_id]
  return make_segments(items, tokenizer)


TEMPLATES = {'chatml': chatml, 'llama2': llama2}


def refuse_markers(
  conversation: Conversation, markers: Iterable[str], model: str
) -> None:
  """Raise ValueError if a turn contains text by which a model marks turns."""
  parts = itertools.chain.from_iterable(map(join_parts, conversation))
  for part, marker in itertools.product(parts, markers):
    if isinstance(part, str) and marker in part:
      raise ValueError(
        f'a turn contains {marker}, which {model} uses to mark turns; remove it'
      )


def check_roles(conversation: Conversation) -> None:
  """Raise ValueError unless there are turns, and each has a role that is known."""
  if not conversation:
    raise ValueError('the conversation has no turns')
  roles = ('system', 'user', 'assistant')
  for number, turn in enumerate(conversation):
    if turn.role not in roles:
      raise ValueError(f'turn {number} has the role {turn.role!r}; known: {roles}')


def join_parts(turn: Turn) -> list[Part]:
  """Return the content of a turn, adjacent texts joined and empty ones dropped."""
  return _join_texts([turn.content] if isinstance(turn.content, str) else turn.content)


def _join_texts(items: Iterable[Any]) -> list[Any]:
  joined = []
  for item in items:
    if isinstance(item, str) and joined and isinstance(joined[-1], str):
      joined[-1] += item
    elif item != '':
      joined.append(item)
  return joined


def _strip_ends(parts: list[Part]) -> list[Part]:
  """Strip white space at the start of the first text and the end of the last."""
  if parts and isinstance(parts[0], str):
    parts = [parts[0].lstrip(), *parts[1:]]
  if parts and isinstance(parts[-1], str):
    parts = [*parts[:-1], parts[-1].rstrip()]
  return parts


def make_segments(
  items: Iterable[PromptItem],
  tokenizer: Tokenizer,
  unparsed: re.Pattern | None = None,
) -> list[Segment]:
  """Tokenise each run of text; the ids between two audio clips become one tuple.

  unparsed: finds, after the first character of each, what must not become one token.
  """
  segments: list[Segment] = []
  ids: list[int] = []
  after = 'nothing'
  for item, following in itertools.pairwise([*_join_texts(items), '']):
    if isinstance(item, str):
      if isinstance(following, Audio) and tokenizer.adds_prefix_space:
        item = item.removesuffix(' ')  # part of the first spoken word: '▁What'
      for piece in unparsed.split(item) if unparsed else [item]:
        ids += tokenizer.encode(piece, after=after)
        after = 'text'
    elif isinstance(item, Audio):
      segments += [tuple(ids), item.index]
      ids = []
    else:
      ids.append(item)
    after = 'control' if isinstance(item, int) else 'text'
  return [segment for segment in (*segments, tuple(ids)) if segment != ()]
