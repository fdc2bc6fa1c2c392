# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of an encoder's own CTC head: pieces of normalised text.

Ours is a unigram sentencepiece model, trained on the transcripts of a corpus; published
checkpoints ship a `tokenizer.json`.
"""

import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
import tokenizers

from acl_jax.runtime.files import write_atomically
from acl_jax.text.tokenizer import TextEncoder, checksum

FILES = ('tokenizer.model', 'tokenizer.json')
DEFAULT_MAX_PIECE_LENGTH = 16  # characters, sentencepiece's default
MAX_PIECE_LENGTH = 512  # characters, sentencepiece's limit


def normalise(text: str) -> str:
  """NFKC and lower case; all but letters, digits and apostrophes become spaces."""
  text = unicodedata.normalize('NFKC', text).lower().replace('\u2019', "'")
  return ' '.join(re.sub(r"[^\w']|_", ' ', text).split())


class Vocabulary:
  """Text to the class ids of a CTC head and back; the blank is class `len(self)`."""

  def __init__(self, folder: str | Path):
    """Load the `tokenizer.model` or `tokenizer.json` of a folder."""
    for name in FILES:
      if (path := Path(folder) / name).is_file():
        break
    else:
      raise FileNotFoundError(f'{folder}: has neither {" nor ".join(FILES)}')
    self._path = path
    try:
      if path.suffix == '.json':
        self._json = tokenizers.Tokenizer.from_file(str(path))
        self._pieces = None
      else:
        self._pieces = sentencepiece.SentencePieceProcessor(
          model_proto=path.read_bytes()
        )
    except Exception as error:  # the two libraries' errors share no base class
      raise ValueError(f'{path}: not a tokenizer: {error}') from None

  def __len__(self) -> int:
    if self._pieces is None:
      return self._json.get_vocab_size()
    return self._pieces.get_piece_size()

  @property
  def max_piece_length(self) -> int:
    """Characters of the longest piece, counting the space before a word."""
    if self._pieces is None:
      return max(map(len, self._json.get_vocab()))
    model, ids = self._pieces, range(len(self))
    return max(len(model.id_to_piece(i)) for i in ids if not model.is_unknown(i))

  def text_encoder(self) -> TextEncoder:
    """Return `encode` and a checksum of what determines the class ids."""
    return TextEncoder(self.encode, checksum(b'normalised', self._path.read_bytes()))

  def encode(self, text: str) -> list[int]:
    """Return the class ids of a transcript; ValueError if a character has none."""
    text = normalise(text)
    if self._pieces is None:
      return self._json.encode(text, add_special_tokens=False).ids
    ids = self._pieces.encode(text)
    if self._pieces.unk_id() in ids:
      known = set(''.join(map(self._pieces.id_to_piece, range(len(self)))))
      unknown = sorted(set(text) - known - {' '})
      raise ValueError(f'no piece of the vocabulary contains {"".join(unknown)!r}')
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """Return the text of class ids, without repeats; blanks are skipped."""
    ids = [int(i) for i in ids if i < len(self)]
    decode = self._json.decode if self._pieces is None else self._pieces.decode
    return decode(ids)


def train_vocabulary(
  texts: Iterable[str],
  size: int,
  path: str | Path,
  max_piece_length: int = DEFAULT_MAX_PIECE_LENGTH,
) -> None:
  """Train a unigram model of `size` pieces and write it to `path`, a `tokenizer.model`.

  max_piece_length: characters, counting the space before a word. ValueError if it is
  out of range, or if the texts do not yield `size` pieces.
  """
  is_int = type(max_piece_length) is int  # a bool is none
  if not is_int or not 0 < max_piece_length <= MAX_PIECE_LENGTH:
    raise ValueError(
      f'max_piece_length = {max_piece_length!r} is not 1 to {MAX_PIECE_LENGTH}'
      ' characters'
    )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=(text for text in map(normalise, texts) if text),
      model_writer=model,
      model_type='unigram',
      vocab_size=size,
      max_sentencepiece_length=max_piece_length,
      character_coverage=1.0,
      normalization_rule_name='identity',  # `normalise` ran already
      bos_id=-1,
      eos_id=-1,
      minloglevel=2,
    )
  except RuntimeError as error:
    reason = str(error).split('] ')[-1]
    raise ValueError(
      f'{path}: cannot train a vocabulary of {size} pieces: {reason}'
    ) from None
  write_atomically(Path(path), model.getvalue())
