# SPDX-License-Identifier: Apache-2.0
"""Whisper's vocabulary: the pieces that spell a text, and its control tokens."""

from pathlib import Path

import tokenizers
from tokenizers import pre_tokenizers

# What precedes every English transcript without timestamps; English-only models have
# neither a language nor a task.
_START = ('<|startoftranscript|>', '<|en|>', '<|transcribe|>', '<|notimestamps|>')
_END = '<|endoftext|>'


class WhisperPieces:
  """The pieces of a Whisper model's `tokenizer.json`.

  start_ids: the control tokens that start a transcript. end_id: the one that ends it.
  """

  def __init__(self, folder: Path):
    path = folder / 'tokenizer.json'
    if not path.is_file():
      raise FileNotFoundError(f'{path}: Whisper needs its tokenizer to be re-headed')
    try:
      tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
      raise ValueError(f'{path}: not a tokenizer.json: {error}') from None
    ids = [tokenizer.token_to_id(name) for name in (*_START, _END)]
    if ids[0] is None or ids[-1] is None:
      raise ValueError(f'{path}: has no {_START[0]} or no {_END}')
    self.start_ids = tuple(id for id in ids[:-1] if id is not None)
    self.end_id: int = ids[-1]
    self._model = tokenizer.model
    self._to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

  def encode(self, text: str) -> list[int]:
    """Return the fewest pieces that the merges make of a text; at least one."""
    [(characters, _)] = self._to_bytes.pre_tokenize_str(text)
    return [token.id for token in self._model.tokenize(characters)]
