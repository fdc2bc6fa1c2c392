# SPDX-License-Identifier: Apache-2.0
"""Llama-3's tokenizer as Meta publishes it: a `tokenizer.model` of base64 and ranks.

Source of the expression and of the control tokens, which no file names:
https://github.com/meta-llama/llama-models/blob/main/models/llama3/tokenizer.py
"""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

from acl_jax.runtime.files import read_json
from acl_jax.text.byte_level import byte_level, find_splitter, write_bytes
from acl_jax.text.tokenizer import Tokenizer

LINE = re.compile(rb'([A-Za-z0-9+/]+={0,2}) (\d{1,9})')
MAX_BYTES, MAX_TOKEN_BYTES = 64 << 20, 1 << 10
NUM_CONTROL_TOKENS = 256
LLAMA_3_0 = (
  '<|begin_of_text|>',
  '<|end_of_text|>',
  *(f'<|reserved_special_token_{i}|>' for i in range(4)),
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|reserved_special_token_4|>',
  '<|eot_id|>',
)
LLAMA_3_1 = (
  *LLAMA_3_0[:4],
  '<|finetune_right_pad_id|>',
  '<|step_id|>',
  *LLAMA_3_0[6:8],
  '<|eom_id|>',
  '<|eot_id|>',
  '<|python_tag|>',
  '<|image|>',
)


def is_tiktoken(path: Path) -> bool:
  """Whether a `tokenizer.model` is one of these, not a sentencepiece model."""
  with path.open('rb') as file:
    return bool(LINE.fullmatch(file.readline(2 * MAX_TOKEN_BYTES).rstrip()))


def load(path: Path) -> Tokenizer:
  """Load a `tokenizer.model`; `params.json` beside it tells Llama 3 from 3.1 and later.

  ValueError says which line is wrong.
  """
  if (size := path.stat().st_size) > MAX_BYTES:
    raise ValueError(f'{path} has {size} bytes; the limit is {MAX_BYTES} bytes')
  ranks = {write_bytes(token): rank for token, rank in _read_ranks(path).items()}
  params = read_json(path.parent / 'params.json', missing_ok=True)
  names = _control_names(LLAMA_3_1 if params.get('use_scaled_rope') else LLAMA_3_0)
  control = {name: len(ranks) + i for i, name in enumerate(names)}
  ends = ('<|end_of_text|>', '<|eom_id|>', '<|eot_id|>')
  stop_ids = tuple(control[name] for name in ends if name in control)
  return Tokenizer(
    byte_level(ranks, _merges(ranks), find_splitter('llama-bpe'), control=control),
    control,
    vocab_size=len(ranks) + len(control),
    bos_id=control['<|begin_of_text|>'],
    eos_id=control['<|end_of_text|>'],
    stop_ids=stop_ids,
  )


def _control_names(named: tuple[str, ...]) -> list[str]:
  """Return the names of all control tokens, in the order of their ids."""
  reserved = (f'<|reserved_special_token_{i}|>' for i in range(NUM_CONTROL_TOKENS))
  others = [name for name in reserved if name not in named]
  return [*named, *others][:NUM_CONTROL_TOKENS]


def _read_ranks(path: Path) -> dict[bytes, int]:
  """Return the rank of each token, which is its id; they must be 0, 1, 2 and so on."""
  ranks: dict[bytes, int] = {}
  for number, line in enumerate(path.read_bytes().splitlines(), start=1):
    if not line.strip():
      continue
    match = LINE.fullmatch(line)
    try:
      token = base64.b64decode(match[1], validate=True) if match else b''
    except binascii.Error:
      token = b''
    if not match or not 0 < len(token) <= MAX_TOKEN_BYTES:
      raise ValueError(
        f'{path}: line {number} is not the base64 of 1 to {MAX_TOKEN_BYTES} bytes and a'
        ' rank'
      )
    if int(match[2]) != len(ranks) or token in ranks:
      raise ValueError(
        f'{path}: line {number} has the rank {int(match[2])} or a token of an earlier'
        f' line; expected is a new token of rank {len(ranks)}'
      )
    ranks[token] = len(ranks)
  if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
    raise ValueError(f'{path}: no line is the byte {missing[0]}')
  return ranks


def _merges(ranks: Mapping[str, int]) -> list[tuple[str, str]]:
  """Return the pairs of tokens that join to a token, in the order of its rank."""
  merges = []
  for token in ranks:
    cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
    pairs = [pair for pair in cuts if pair[0] in ranks and pair[1] in ranks]
    merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
  return merges
