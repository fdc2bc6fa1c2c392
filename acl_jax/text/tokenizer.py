# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, by whichever library knows the model's tokenizer.

Text never becomes a control token: `encode('</s>')` spells the string out.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, SupportsInt

import sentencepiece
import tokenizers

After = Literal['nothing', 'control', 'text']


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The sentencepiece library."""

  processor: sentencepiece.SentencePieceProcessor

  def encode(self, text: str) -> list[int]:
    return self.processor.encode(text)

  def decode(self, ids: list[int]) -> str:
    return self.processor.decode(ids)


@dataclasses.dataclass(frozen=True)
class Merges:
  """The tokenizers library, byte-pair merges."""

  tokenizer: tokenizers.Tokenizer

  def encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: list[int]) -> str:
    return self.tokenizer.decode(ids)


Backend = Pieces | Merges


class Backends(NamedTuple):
  """Which to ask, by what a text stands after."""

  nothing: Backend
  control: Backend
  text: Backend


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to token ids and back; picklable, so that loader processes can have it.

  Llama's tokenizers put a space before the first word of a text. Whether they do it
  in the middle of a prompt depends on what stands before: hence three backends.
  """

  backends: Backends = dataclasses.field(repr=False)
  controls: Mapping[str, int]  # control tokens by name
  vocab_size: int
  bos_id: int | None
  eos_id: int
  stop_ids: tuple[int, ...]  # any of these ends a response

  @property
  def opens_with_space(self) -> bool:
    """Whether the first word of a text is tokenised as if a space stood before it."""
    return self.encode('a') != self.encode('a', after='text')

  def encode(self, text: str, *, after: After = 'nothing') -> list[int]:
    """Ids of plain text that stands `after` nothing, a control token, or more text."""
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f'text is not valid Unicode: {error}') from None
    return getattr(self.backends, after).encode(text)

  def decode(self, ids: Iterable[SupportsInt]) -> str:
    """The text of `ids`, without control tokens and padding of the vocabulary."""
    left_out = set(self.controls.values())
    kept = [i for i in map(int, ids) if i < self.vocab_size and i not in left_out]
    return self.backends.nothing.decode(kept)

  def piece(self, id: int) -> str:
    """The text of one token as it stands in a text, a space before it included."""
    before = self.encode('a')
    return self.decode([*before, id])[len(self.decode(before)) :]

  def control(self, name: str) -> int:
    """The id of a control token such as '<|im_end|>'."""
    if name not in self.controls:
      raise ValueError(
        f'the tokenizer has no control token {name!r}; it has {sorted(self.controls)}'
      )
    return self.controls[name]
