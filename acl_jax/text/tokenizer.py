# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, with the library that reads the model's tokenizer.

Text never encodes to a control token: `encode('</s>')` spells the string out.
"""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, SupportsInt

import sentencepiece
import tokenizers

Preceding = Literal['nothing', 'control', 'text']  # what comes before a text


@dataclasses.dataclass(frozen=True)
class SentencePieceBackend:
  """A model of the sentencepiece library."""

  processor: sentencepiece.SentencePieceProcessor

  def encode(self, text: str) -> list[int]:
    return self.processor.encode(text)

  def decode(self, ids: list[int]) -> str:
    return self.processor.decode(ids)

  def content(self) -> bytes:
    return self.processor.serialized_model_proto()


@dataclasses.dataclass(frozen=True)
class TokenizersBackend:
  """A byte-pair model of the tokenizers library."""

  tokenizer: tokenizers.Tokenizer

  def encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: list[int]) -> str:
    return self.tokenizer.decode(ids)

  def content(self) -> bytes:
    return self.tokenizer.to_str().encode()


Backend = SentencePieceBackend | TokenizersBackend


class TextEncoder(NamedTuple):
  """A function from a text to ids, and a checksum of what determines the ids.

  encode raises ValueError for a text that has no ids.
  """

  encode: Callable[[str], list[int]]
  fingerprint: str


def checksum(*parts: bytes) -> str:
  """Return a checksum of the files of a tokenizer and of the libraries' versions."""
  digest = hashlib.sha256()
  for name in ('tokenizers', 'sentencepiece'):
    digest.update(f'{name} {importlib.metadata.version(name)}\n'.encode())
  for part in parts:
    digest.update(b'%d\n' % len(part) + part)
  return digest.hexdigest()


class Backends(NamedTuple):
  """The backend that encodes a text, by what precedes it; see `Preceding`."""

  nothing: Backend
  control: Backend
  text: Backend


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to token ids and back; picklable, so loader processes can receive it.

  Llama's tokenizers put a space before the first word of a text. Whether they do so in
  the middle of a prompt depends on what precedes the text, hence three backends.
  """

  backends: Backends = dataclasses.field(repr=False)
  control_tokens: Mapping[str, int]  # name -> id of each control token
  vocab_size: int
  bos_id: int | None
  eos_id: int
  stop_ids: tuple[int, ...]  # any of these ends a response
  num_embeddings: int | None = None  # of the LLM; None: as many as needed

  @property
  def adds_prefix_space(self) -> bool:
    """Whether a text is tokenised as if a space preceded its first word."""
    return self.encode('a') != self.encode('a', after='text')

  def text_encoder(self) -> TextEncoder:
    """Return `encode` for a text that nothing precedes, and its checksum."""
    limit = str(self.num_embeddings).encode()
    return TextEncoder(self.encode, checksum(self.backends.nothing.content(), limit))

  def encode(self, text: str, *, after: Preceding = 'nothing') -> list[int]:
    """Return the ids of plain text.

    after: what precedes the text. ValueError if it is not valid Unicode, or has a token
    for which the LLM has no embedding.
    """
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f'text is not valid Unicode: {error}') from None
    ids = getattr(self.backends, after).encode(text)
    self.check_embedded(ids, 'text')
    return ids

  def check_embedded(self, ids: Sequence[int], what: str) -> None:
    """Raise ValueError for an id without an embedding, which is none of the LLM's."""
    limit = self.num_embeddings
    if limit is None or not len(ids) or 0 <= min(ids) <= max(ids) < limit:
      return
    id = next(id for id in ids if not 0 <= id < limit)
    raise ValueError(
      f'{what} has the token {id}; the LLM has embeddings of {limit} tokens, from 0 on'
    )

  def decode(self, ids: Iterable[SupportsInt]) -> str:
    """Return the text of `ids`; skips control tokens and vocabulary padding."""
    skipped = set(self.control_tokens.values())
    kept = [i for i in map(int, ids) if 0 <= i < self.vocab_size and i not in skipped]
    return self.backends.nothing.decode(kept)

  def token_text(self, id: int) -> str:
    """Return the text of one token inside a text, with the space before it if any."""
    return self.token_texts([id])[0]

  def token_texts(self, ids: Sequence[int]) -> list[str]:
    """Return `token_text` of each id; a whole vocabulary takes half a second."""
    context, decode = self.encode('a'), self.backends.nothing.decode
    start, skipped = len(decode(context)), set(self.control_tokens.values())
    return [
      decode([*context, id])[start:]
      if 0 <= id < self.vocab_size and id not in skipped
      else ''
      for id in map(int, ids)
    ]

  def control_id(self, name: str) -> int:
    """Return the id of a control token such as '<|im_end|>'; ValueError if unknown."""
    if name not in self.control_tokens:
      raise ValueError(
        f'the tokenizer has no control token {name!r}; it has'
        f' {sorted(self.control_tokens)}'
      )
    self.check_embedded([id := self.control_tokens[name]], f'the control token {name}')
    return id
