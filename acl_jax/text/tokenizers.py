# SPDX-License-Identifier: Apache-2.0
"""The three forms in which Llamas ship their tokenizer: sentencepiece
(`tokenizer.model`), the tokenizers library (`tokenizer.json`), and GGUF.
"""

import dataclasses
from pathlib import Path

from acl_jax.runtime.files import read_json
from acl_jax.text import gguf, sentencepieces, tokenizer_json
from acl_jax.text.tokenizer import Tokenizer

LOADERS = {
  '.model': sentencepieces.load,
  '.json': tokenizer_json.load,
  '.gguf': gguf.load,
}


def load_tokenizer(path: str | Path) -> Tokenizer:
  """The tokenizer in a `.model`, `.json` or `.gguf` file, or in a folder with one."""
  path = Path(path)
  if path.is_dir():
    path = _inside(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such tokenizer')
  if path.suffix not in LOADERS:
    raise ValueError(f'{path}: a tokenizer is a .model, .json or .gguf file')
  tokenizer = LOADERS[path.suffix](path)
  return tokenizer if path.suffix == '.gguf' else _with_stop_ids(tokenizer, path.parent)


def _inside(folder: Path) -> Path:
  """The tokenizer file of a folder: Transformers' choice first."""
  for name in ('tokenizer.json', 'tokenizer.model'):
    if (folder / name).is_file():
      return folder / name
  found = sorted(folder.glob('*.gguf'))
  if len(found) != 1:
    raise FileNotFoundError(
      f'{folder}: no tokenizer.json, no tokenizer.model, and {len(found)} .gguf files'
    )
  return found[0]


def _with_stop_ids(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
  """Chat models may end a turn with more than one token: `generation_config.json`."""
  generation = read_json(folder / 'generation_config.json', missing_ok=True)
  ids = generation.get('eos_token_id', [])
  ids = [ids] if isinstance(ids, int) else ids
  return dataclasses.replace(
    tokenizer, stop_ids=tuple(dict.fromkeys((tokenizer.eos_id, *ids)))
  )
