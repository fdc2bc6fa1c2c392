# SPDX-License-Identifier: Apache-2.0
"""The tokenizers library's own file, `tokenizer.json`, of the Llama family."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from acl_jax.runtime.files import read_json
from acl_jax.text.tokenizer import Backends, Merges, Tokenizer


def load(path: Path) -> Tokenizer:
  """The tokenizer of a `tokenizer.json`; the files beside it name its ends."""
  try:
    spec = json.loads(path.read_text())
    size = tokenizers.Tokenizer.from_str(json.dumps(spec)).get_vocab_size()
    kind = spec['model'].get('type', 'BPE')
  except Exception as error:  # the library raises bare Exception
    raise ValueError(f'{path}: not a tokenizer.json: {error}') from None
  if kind != 'BPE':
    raise ValueError(f'{path}: model.type is {kind!r}; the Llama family has BPE')
  added = spec.get('added_tokens', [])
  unknown = spec['model'].get('unk_token')
  controls = {
    token['content']: token['id']
    for token in added
    if token['special'] and token['content'] != unknown
  }
  # The library would find control tokens in the text, so it must not know them.
  spec['added_tokens'] = [token for token in added if token['content'] not in controls]
  start = _named_id(path.parent, 'bos_token', controls)
  end = _named_id(path.parent, 'eos_token', controls)
  if end is None:
    raise ValueError(
      f'{path}: neither tokenizer_config.json nor special_tokens_map.json beside it '
      'names an eos_token that is a control token'
    )
  return Tokenizer(_backends(spec), controls, size, start, end, (end,))


def _backends(spec: dict[str, Any]) -> Backends:
  """The tokenizer as the file states it, and with no space put before the text."""
  opening = Merges(tokenizers.Tokenizer.from_str(json.dumps(spec)))
  normalizers = _steps(spec, 'normalizer', 'normalizers')
  splitters = _steps(spec, 'pre_tokenizer', 'pretokenizers')
  once = any(step.get('prepend_scheme') == 'first' for step in splitters)
  for step in splitters:
    if step['type'] == 'Metaspace':
      step['prepend_scheme'] = 'never'
    if step['type'] == 'ByteLevel':
      step['add_prefix_space'] = False
  kept = [step for step in normalizers if step['type'] != 'Prepend']
  spec = spec | {'normalizer': {'type': 'Sequence', 'normalizers': kept}}
  middle = Merges(tokenizers.Tokenizer.from_str(json.dumps(spec)))
  return Backends(opening, middle if once else opening, middle)


def _steps(spec: dict[str, Any], field: str, plural: str) -> list[dict[str, Any]]:
  step = spec.get(field)
  if step is None:
    return []
  return step[plural] if step['type'] == 'Sequence' else [step]


def _named_id(folder: Path, name: str, controls: Mapping[str, int]) -> int | None:
  for file in ('tokenizer_config.json', 'special_tokens_map.json'):
    token = read_json(folder / file, missing_ok=True).get(name)
    token = token['content'] if isinstance(token, dict) else token
    if isinstance(token, str) and token in controls:
      return controls[token]
  return None
