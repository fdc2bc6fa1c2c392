# SPDX-License-Identifier: Apache-2.0
"""What an encoder's own CTC head writes: pieces of normalised text.

Ours is a unigram sentencepiece model, trained from a corpus' transcripts; published
checkpoints bring a `tokenizer.json`.
"""

import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
import tokenizers

from acl_jax.runtime.files import write_atomically

FILES = ('tokenizer.model', 'tokenizer.json')
DEFAULT_MAX_PIECE_LENGTH, MAX_PIECE_LENGTH = (
  16,
  512,
)  # characters of a piece: sentencepiece's default and limit


def normalise(text: str) -> str:
  """NFKC, lower case; all but letters, digits and apostrophes becomes a space."""
  text = unicodedata.normalize('NFKC', text).lower().replace('\u2019', "'")
  return ' '.join(re.sub(r"[^\w']|_", ' ', text).split())


class Vocabulary:
  """Text to the classes of a CTC head and back; the blank is class `len(self)`."""

  def __init__(self, folder: str | Path):
    """Reads `tokenizer.model` or `tokenizer.json`."""
    for name in FILES:
      if (path := Path(folder) / name).is_file():
        break
    else:
      raise FileNotFoundError(f'{folder}: neither {" nor ".join(FILES)} is there')
    try:
      if path.suffix == '.json':
        self._json = tokenizers.Tokenizer.from_file(str(path))
        self._pieces = None
      else:
        self._pieces = sentencepiece.SentencePieceProcessor(
          model_proto=path.read_bytes()
        )
    except Exception as error:  # neither library's errors have a common base
      raise ValueError(f'{path}: not a tokenizer: {error}') from None

  def __len__(self) -> int:
    if self._pieces is None:
      return self._json.get_vocab_size()
    return self._pieces.get_piece_size()

  @property
  def longest(self) -> int:
    """Characters of its longest piece, the space before a word counted."""
    if self._pieces is None:
      return max(map(len, self._json.get_vocab()))
    model, ids = self._pieces, range(len(self))
    return max(len(model.id_to_piece(i)) for i in ids if not model.is_unknown(i))

  def encode(self, text: str) -> list[int]:
    """The classes of a transcript; ValueError if a character has none."""
    text = normalise(text)
    if self._pieces is None:
      return self._json.encode(text, add_special_tokens=False).ids
    ids = self._pieces.encode(text)
    if self._pieces.unk_id() in ids:
      known = set(''.join(map(self._pieces.id_to_piece, range(len(self)))))
      strange = sorted(set(text) - known - {' '})
      raise ValueError(f'no piece of the vocabulary has {"".join(strange)!r}')
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text of classes without blanks and repeats."""
    ids = [int(i) for i in ids if i < len(self)]
    decode = self._json.decode if self._pieces is None else self._pieces.decode
    return decode(ids)


def train_vocabulary(
  texts: Iterable[str],
  size: int,
  path: str | Path,
  longest: int = DEFAULT_MAX_PIECE_LENGTH,
) -> None:
  """Writes a unigram model of `size` pieces to `path`, a `tokenizer.model`.

  longest: characters of a piece at most, the space before a word counted.
  """
  if type(longest) is not int or not 0 < longest <= MAX_PIECE_LENGTH:
    raise ValueError(
      f'max_piece_length = {longest!r} is not 1 to {MAX_PIECE_LENGTH} characters'
    )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=(text for text in map(normalise, texts) if text),
      model_writer=model,
      model_type='unigram',
      vocab_size=size,
      max_sentencepiece_length=longest,
      character_coverage=1.0,
      normalization_rule_name='identity',  # done above
      bos_id=-1,
      eos_id=-1,
      minloglevel=2,
    )
  except RuntimeError as error:
    reason = str(error).split('] ')[-1]
    raise ValueError(f'{path}: no vocabulary of {size} pieces ({reason})') from None
  write_atomically(Path(path), model.getvalue())
