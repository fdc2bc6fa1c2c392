# SPDX-License-Identifier: Apache-2.0
"""The chat template that a model ships: from a conversation to segments.

The template sees every turn as it is, so that it trims, splits and inspects it as in
Transformers. Only two things are put into a turn: a number nobody can guess stands for
each clip, and two surround each string that would otherwise become a control token.
What is rendered is cut at these numbers; all other control tokens are the template's.
"""

import dataclasses
import functools
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import date

import jinja2

from acl_jax.text import sandbox
from acl_jax.text.layout import Segment
from acl_jax.text.templates import (
  LLAMA2_MARKERS,
  Audio,
  Conversation,
  PromptItem,
  Turn,
  check_roles,
  join_parts,
  make_segments,
  refuse_markers,
)
from acl_jax.text.tokenizer import Tokenizer, TokenizersBackend

# Digits alone: trimming, splitting and changes of case do not damage them.
_SECRET = f'{secrets.randbelow(10**32):032}'
_CLIP, _OPEN, _CLOSE = (_SECRET + digit for digit in '123')
_CLIP_DIGITS = 9
MAX_MESSAGE = 300  # characters of a template's own words in an error


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """A chat template in Jinja.

  origin: its file and field, for errors. names: `bos_token` and the like. control_ids:
  of the tokenizer's control tokens. added_ids: of other tokens that the template
  writes whole, such as `<think>`. today: the date, for templates that show it.
  """

  source: str = dataclasses.field(repr=False)
  origin: str
  names: Mapping[str, str]
  control_ids: Mapping[str, int] = dataclasses.field(repr=False)
  added_ids: Mapping[str, int]
  today: date

  __name__ = 'auto'

  def __call__(self, conversation: Conversation, tokenizer: Tokenizer) -> list[Segment]:
    """Apply the template; ValueError if it fails or refuses the conversation.

    A generation prompt follows a last turn of the user. Text that contains a control
    token is spelt out; in an assistant's turn only control tokens proper are, because
    templates parse the others, as those around a reasoning model's thoughts.
    """
    check_roles(conversation)
    plain = (
      m for m in LLAMA2_MARKERS if m in self.source and m not in self.control_ids
    )
    refuse_markers(conversation, plain, 'its chat template')
    items = self._cut(self._render(conversation))
    kept = sorted(item.index for item in items if isinstance(item, Audio))
    parts = (part for turn in conversation for part in join_parts(turn))
    if kept != sorted(part.index for part in parts if isinstance(part, Audio)):
      raise ValueError(f'{self.origin} does not keep every audio clip once')
    self._check_control_ids(conversation, items)
    return make_segments(items, tokenizer, _inside(tuple(self.added_ids)))

  def end_ids(self) -> list[int]:
    """Return the token that the template puts after a reply, if it is one."""
    try:
      reply = [Turn('user', 'a'), Turn('assistant', [Audio(0)])]
      items = self._cut(self._render(reply))
    except ValueError:
      return []  # it may want more turns
    if Audio(0) not in items:
      return []
    after = (i for i in items[items.index(Audio(0)) + 1 :] if str(i).strip())
    return [item for item in [next(after, None)] if isinstance(item, int)]

  def _render(self, conversation: Conversation, defused: bool = False) -> str:
    messages = [
      {'role': turn.role, 'content': self._mark(turn, defused)} for turn in conversation
    ]
    variables = {
      'messages': messages,
      'tools': None,
      'documents': None,
      'add_generation_prompt': conversation[-1].role == 'user',
      'enable_thinking': False,  # a reply is spoken: nobody waits for thoughts
      **self.names,
    }
    try:
      template = sandbox.compile_template(self.source, self.today)
      return sandbox.render(template, variables)
    except sandbox.Refusal as error:
      raise self._error('refuses the conversation', error) from None
    except jinja2.TemplateSyntaxError as error:
      raise self._error(f'is no Jinja in line {error.lineno}', error) from None
    except Exception as error:  # a template may raise anything
      raise self._error('cannot be rendered', error) from None

  def _error(self, what: str, error: Exception) -> ValueError:
    message = ' '.join(str(error).split()) or type(error).__name__
    if missing := re.fullmatch(r"'(\w+_token)' is undefined", message):
      message = f'it needs a {missing[1]}, and the tokenizer has none'
    return ValueError(f'{self.origin} {what}: {message[:MAX_MESSAGE]}')

  def _mark(self, turn: Turn, defused: bool) -> str:
    """Return the content of a turn, with clips and control tokens marked.

    defused: instead of being marked, control tokens lose their first character.
    """
    added = () if turn.role == 'assistant' else self.added_ids
    marked = _exactly((*self.control_ids, *added))
    texts = []
    for part in join_parts(turn):
      if isinstance(part, Audio):
        texts.append(f'{_CLIP}{part.index:0{_CLIP_DIGITS}}')
        continue
      if defused:
        part = self._first_characters.sub(lambda m: m['added'] or '.', part)
      texts.append(marked.sub(lambda m: f'{_OPEN}{m[0]}{_CLOSE}', part))
    return ''.join(texts)

  def _cut(self, rendered: str) -> list[PromptItem]:
    """Return the texts, clips and control tokens of what was rendered."""
    ids = {**self.added_ids, **self.control_ids}
    items: list[PromptItem] = []
    start = 0
    for match in _cuts(tuple(ids)).finditer(rendered):
      items.append(rendered[start : match.start()])
      start = match.end()
      if match['clip']:
        items.append(Audio(int(match['clip'])))
      elif match['control']:
        items.append(ids[match['control']])
      elif match['text']:
        items.append(match['text'])
    return [item for item in (*items, rendered[start:]) if item != '']

  def _check_control_ids(
    self, conversation: Conversation, items: Iterable[PromptItem]
  ) -> None:
    """Raise ValueError if the words of a turn became control tokens.

    A template that removes something from a turn may join what was beside it.
    """
    parts = (part for turn in conversation for part in join_parts(turn))
    texts = (part for part in parts if isinstance(part, str))
    if not any(map(self._first_characters.search, texts)):
      return
    control = {*self.control_ids.values()}
    expected = self._cut(self._render(conversation, defused=True))
    if [i for i in items if i in control] != [i for i in expected if i in control]:
      raise ValueError(
        f'{self.origin} makes control tokens of the text of a turn; remove such text'
      )

  @property
  def _first_characters(self) -> re.Pattern:
    """Finds characters that a control token may begin with, and added tokens."""
    return _beginnings(tuple(self.control_ids), tuple(self.added_ids))


def make_chat_template(
  source: str,
  origin: str,
  tokenizer: Tokenizer,
  today: date,
  names: Mapping[str, str],
) -> ChatTemplate:
  """Make the template of a tokenizer and try it; ValueError if it does not work.

  names: `unk_token` and the like; those that begin and end a text are known.
  """
  by_id = {id: name for name, id in tokenizer.control_tokens.items()}
  ends = {'bos_token': tokenizer.bos_id, 'eos_token': tokenizer.eos_id}
  known = {name: by_id[id] for name, id in ends.items() if id in by_id}
  backend = tokenizer.backends.text
  added = {}
  if isinstance(backend, TokenizersBackend):
    for id, token in backend.tokenizer.get_added_tokens_decoder().items():
      name = token.content
      if name not in tokenizer.control_tokens and len(name) > 1:
        if token.special or name in source:
          added[name] = id
  template = ChatTemplate(
    source, origin, {**names, **known}, tokenizer.control_tokens, added, today
  )
  template([Turn('user', [Audio(0)])], tokenizer)
  return template


def _any_of(names: Iterable[str]) -> str:
  """Return a pattern of the names, longer ones first."""
  longest_first = sorted(filter(None, names), key=len, reverse=True)
  return '|'.join(map(re.escape, longest_first)) or '(?!)'


@functools.lru_cache(maxsize=16)
def _exactly(names: tuple[str, ...]) -> re.Pattern:
  return re.compile(_any_of(names))


@functools.lru_cache(maxsize=16)
def _cuts(names: tuple[str, ...]) -> re.Pattern:
  """Finds clips, marked text, marks that a template tore apart, and control tokens."""
  names_pattern = _any_of(names)
  return re.compile(
    rf'{_CLIP}(?P<clip>\d{{{_CLIP_DIGITS}}})'
    rf'|{_OPEN}(?P<text>{names_pattern}){_CLOSE}|{_OPEN}|{_CLOSE}'
    rf'|(?P<control>{names_pattern})'
  )


@functools.lru_cache(maxsize=16)
def _beginnings(control: tuple[str, ...], added: tuple[str, ...]) -> re.Pattern:
  first = {name[0] for name in control if name}
  return re.compile(f'(?P<added>{_any_of(added)})|(?:{_any_of(first)})')


@functools.lru_cache(maxsize=16)
def _inside(names: tuple[str, ...]) -> re.Pattern | None:
  """Finds the place after the first character of any of the names."""
  if not names:
    return None
  after_first = (
    f'(?<={re.escape(name[0])})(?={re.escape(name[1:])})' for name in names
  )
  return re.compile('|'.join(after_first))
