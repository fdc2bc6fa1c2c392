# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE: how each family of models splits text into words before merging.

Names are those of llama.cpp, `tokenizer.ggml.pre`; expressions those of the published
tokenizer.json files. Bytes are written as GPT-2's printable characters.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from acl_jax.text.tokenizer import Backends, TokenizersBackend

LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
QWEN2 = LLAMA3.replace(r'\p{N}{1,3}', r'\p{N}')
TEKKEN = (
  r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+'
  r'|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*'
  r'|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
DEFAULT = (
  r'[\p{P}\$\+<=>\^~\|]+',
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
  r'\p{N}+',
  '[0-9][0-9][0-9]',
)


def _split(expression: str) -> PreTokenizer:
  return pre_tokenizers.Split(Regex(expression), behavior='isolated')


class Splitter(NamedTuple):
  """Steps that split text one after the other.

  gpt2_words: GPT-2's expression is the last step. whole_words: a word that is a token
  is never merged from parts. composed: text is normalised to NFC first.
  """

  steps: tuple[PreTokenizer, ...] = ()
  gpt2_words: bool = False
  whole_words: bool = False
  composed: bool = False


SPLITTERS = {
  'gpt-2': Splitter(gpt2_words=True),
  'smollm': Splitter((pre_tokenizers.Digits(individual_digits=True),), gpt2_words=True),
  'llama-bpe': Splitter((_split(LLAMA3),), whole_words=True),
  'qwen2': Splitter((_split(QWEN2),), composed=True),
  'tekken': Splitter((_split(TEKKEN),), whole_words=True),
  'default': Splitter(tuple(map(_split, DEFAULT))),
}
ALIASES = {
  'llama3': 'llama-bpe',
  'llama-v3': 'llama-bpe',
  'falcon3': 'llama-bpe',
  'pixtral': 'llama-bpe',
  'deepseek-r1-qwen': 'qwen2',
  'f2llmv2': 'qwen2',
  'kormo': 'qwen2',
  'megrez': 'qwen2',
}


def find_splitter(name: str) -> Splitter:
  """Return the splitter of a family; ValueError if there is none of this name."""
  if (name := ALIASES.get(name, name)) not in SPLITTERS:
    raise ValueError(f'{name!r:.60} is no known pre-tokenizer: {", ".join(SPLITTERS)}')
  return SPLITTERS[name]


def make_pre_tokenizer(splitter: Splitter) -> PreTokenizer:
  """Return what splits text into words and writes their bytes."""
  words = splitter.gpt2_words
  to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
  return pre_tokenizers.Sequence([*splitter.steps, to_bytes])


def byte_level(
  vocab: Mapping[str, int],
  merges: Sequence[tuple[str, str]],
  splitter: Splitter,
  *,
  control: Mapping[str, int],
  user_defined: Collection[str] = (),
) -> Backends:
  """Make a byte-level BPE whose text never becomes one of the `control` tokens.

  user_defined: tokens that are recognised in text before it is split.
  """
  backend = _build(vocab, merges, splitter, user_defined)
  reachable = {name for name, id in control.items() if id in backend.encode(name)}
  reachable |= {name for name in control if not name.strip()}
  if reachable:
    vocab = {token: id for token, id in vocab.items() if token not in reachable}
    merges = [m for m in merges if not {*m, m[0] + m[1]} & reachable]
    backend = _build(vocab, merges, splitter, set(user_defined) - reachable)
  return Backends(backend, backend, backend)


def _build(
  vocab: Mapping[str, int],
  merges: Sequence[tuple[str, str]],
  splitter: Splitter,
  user_defined: Collection[str],
) -> TokenizersBackend:
  whole_words = splitter.whole_words
  model = models.BPE(dict(vocab), list(merges), ignore_merges=whole_words)
  tokenizer = tokenizers.Tokenizer(model)
  if splitter.composed:
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = make_pre_tokenizer(splitter)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_tokens(list(user_defined))
  return TokenizersBackend(tokenizer)


def write_bytes(data: bytes) -> str:
  """Write bytes as GPT-2 does: printable Latin-1 as it is, the others from U+0100."""
  return ''.join(_CHARACTERS[byte] for byte in data)


_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE} | {
  byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)
}
