# SPDX-License-Identifier: Apache-2.0
"""Whisper's vocabulary, and the tokens that an LLM has in common with it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import tokenizers
from tokenizers import decoders, pre_tokenizers

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
      raise FileNotFoundError(f'{path}: the decoder of Whisper needs its tokenizer')
    try:
      tokenizer = tokenizers.Tokenizer.from_str(_complete_merges(path.read_text()))
    except Exception as error:  # the library raises bare Exception
      raise ValueError(f'{path}: not a tokenizer.json: {error}') from None
    ids = [tokenizer.token_to_id(name) for name in (*_START, _END)]
    if ids[0] is None or ids[-1] is None:
      raise ValueError(f'{path}: has no {_START[0]} or no {_END}')
    self.start_ids = tuple(id for id in ids[:-1] if id is not None)
    self.end_id: int = ids[-1]
    self._tokenizer, self._model = tokenizer, tokenizer.model
    self._to_text = decoders.ByteLevel()
    self._to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

  def write(self, transcript: str) -> list[str]:
    """Return the texts of the pieces that Whisper writes a transcript with."""
    encoding = self._tokenizer.encode(transcript, add_special_tokens=False)
    return [self._to_text.decode([piece]) for piece in encoding.tokens]

  def encode(self, text: str) -> list[int]:
    """Return the fewest pieces that the merges make of a text; at least one."""
    [(characters, _)] = self._to_bytes.pre_tokenize_str(text)
    return [token.id for token in self._model.tokenize(characters)]


def _complete_merges(content: str) -> str:
  """Return a tokenizer.json whose merges make every piece of two characters.

  That of the embedded Whisper lacks the first merge, of a space and "t", so that " the"
  and 1,169 more pieces, though in the vocabulary, would never be written.
  """
  fields = json.loads(content)
  model = fields['model']
  merges = [m.split(' ') if isinstance(m, str) else m for m in model['merges']]
  made = {''.join(merge) for merge in merges}
  pairs = (piece for piece in model['vocab'] if len(piece) == 2)
  model['merges'] = [list(pair) for pair in pairs if pair not in made] + merges
  return json.dumps(fields)


class CommonTokens:
  """The tokens of an LLM that are one piece of Whisper each: both can write them.

  They are half of either vocabulary and nearly all of a transcript. Tokens that Whisper
  does not know would have to be learnt from the speech at hand.

  texts: of the LLM's tokens that may be used.
  """

  def __init__(self, pieces: WhisperPieces, texts: Mapping[int, str]):
    self._pieces = pieces
    self.piece_ids: dict[int, int] = {}  # by token
    self._tokens: dict[str, int] = {}
    for token, text in texts.items():
      if len(ids := pieces.encode(text)) == 1:
        self.piece_ids[token] = ids[0]
        self._tokens[text] = token
    self._longest = max(map(len, self._tokens), default=0)

  def encode(self, transcript: str) -> list[int]:
    """Write a transcript as Whisper does; what is no common token in shorter ones."""
    tokens = []
    for text in self._pieces.write(transcript):
      token = self._tokens.get(text)
      tokens += self._spell(text) if token is None else [token]
    return tokens

  def _spell(self, text: str) -> Iterator[int]:
    """Yield the longest token at every place; characters without one are left out."""
    start = 0
    while start < len(text):
      lengths = range(min(self._longest, len(text) - start), 0, -1)
      fits = (n for n in lengths if text[start : start + n] in self._tokens)
      if length := next(fits, 0):
        yield self._tokens[text[start : start + length]]
      start += length or 1
