# SPDX-License-Identifier: Apache-2.0
"""`tokenizer.json` files of the tokenizers library, for the Llama family."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from acl_jax.runtime.files import read_json
from acl_jax.text.tokenizer import Backends, Tokenizer, TokenizersBackend


def load(path: Path) -> Tokenizer:
  """Load a `tokenizer.json`; the configs beside it define its bos and eos tokens."""
  try:
    spec = json.loads(path.read_text())
    vocab = tokenizers.Tokenizer.from_str(json.dumps(spec)).get_vocab()
    size = max(vocab.values()) + 1  # there may be ids without a token
    kind = spec['model'].get('type', 'BPE')
  except Exception as error:  # the library raises bare Exception
    raise ValueError(f'{path}: not a tokenizer.json: {error}') from None
  if kind != 'BPE':
    raise ValueError(f'{path}: model.type is {kind!r}; the Llama family uses BPE')
  added = spec.get('added_tokens', [])
  unknown = spec['model'].get('unk_token')
  control_tokens = {
    token['content']: token['id']
    for token in added
    if token['special'] and token['content'] != unknown
  }
  # The library counts the ids of tokens that the model lacks: without those before
  # them, later ones would have others.
  for token in added:
    spec['model']['vocab'].setdefault(token['content'], token['id'])
  # The library would parse the control tokens it knows out of plain text.
  spec['added_tokens'] = [
    token for token in added if token['content'] not in control_tokens
  ]
  start = _special_id(path.parent, 'bos_token', control_tokens)
  end = _special_id(path.parent, 'eos_token', control_tokens)
  if end is None:
    raise ValueError(
      f'{path}: neither tokenizer_config.json nor special_tokens_map.json beside it'
      ' names an eos_token that is a control token'
    )
  return Tokenizer(_backends(spec), control_tokens, size, start, end, (end,))


def _backends(spec: dict[str, Any]) -> Backends:
  """Make the tokenizer as the file defines it, and one without a prefix space."""
  with_prefix = TokenizersBackend(tokenizers.Tokenizer.from_str(json.dumps(spec)))
  normalizers = _steps(spec, 'normalizer', 'normalizers')
  splitters = _steps(spec, 'pre_tokenizer', 'pretokenizers')
  only_first = any(step.get('prepend_scheme') == 'first' for step in splitters)
  for step in splitters:
    if step['type'] == 'Metaspace':
      step['prepend_scheme'] = 'never'
    if step['type'] == 'ByteLevel':
      step['add_prefix_space'] = False
  kept = [step for step in normalizers if step['type'] != 'Prepend']
  spec = spec | {'normalizer': {'type': 'Sequence', 'normalizers': kept}}
  without_prefix = TokenizersBackend(tokenizers.Tokenizer.from_str(json.dumps(spec)))
  after_control = without_prefix if only_first else with_prefix
  return Backends(with_prefix, after_control, without_prefix)


def _steps(spec: dict[str, Any], field: str, plural: str) -> list[dict[str, Any]]:
  """Return the steps of a component; `plural` is the key of a Sequence's list."""
  step = spec.get(field)
  if step is None:
    return []
  return step[plural] if step['type'] == 'Sequence' else [step]


def _special_id(
  folder: Path, name: str, control_tokens: Mapping[str, int]
) -> int | None:
  """Return the id of the token that the configs in `folder` call `name`, if any."""
  for file in ('tokenizer_config.json', 'special_tokens_map.json'):
    token = read_json(folder / file, missing_ok=True).get(name)
    token = token['content'] if isinstance(token, dict) else token
    if isinstance(token, str) and token in control_tokens:
      return control_tokens[token]
  return None
