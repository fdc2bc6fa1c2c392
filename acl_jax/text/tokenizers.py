# SPDX-License-Identifier: Apache-2.0
"""The formats in which tokenizers of Llama and its siblings ship.

sentencepiece or Meta's ranks (`tokenizer.model`), the tokenizers library
(`tokenizer.json`), and GGUF.
"""

import dataclasses
from pathlib import Path

from acl_jax.runtime.files import read_json
from acl_jax.text import gguf, sentencepieces, tiktoken, tokenizer_json
from acl_jax.text.tokenizer import Tokenizer

MAX_STOP_IDS = 64
MAX_ID = 2**31  # ids are int32


def _load_model(path: Path) -> Tokenizer:
  """Load a `tokenizer.model`, a name that two formats have."""
  file_format = tiktoken if tiktoken.is_tiktoken(path) else sentencepieces
  return file_format.load(path)


LOADERS = {
  '.model': _load_model,
  '.json': tokenizer_json.load,
  '.gguf': gguf.load,
}


def load_tokenizer(path: str | Path) -> Tokenizer:
  """Load a `.model`, `.json` or `.gguf` file, or the one in a folder.

  FileNotFoundError if there is no such file, ValueError if it cannot be read.
  """
  path = Path(path)
  if path.is_dir():
    path = _find_file(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such tokenizer')
  if path.suffix not in LOADERS:
    raise ValueError(f'{path}: not a tokenizer: expected a .model, .json or .gguf file')
  tokenizer = LOADERS[path.suffix](path)
  return tokenizer if path.suffix == '.gguf' else _with_stop_ids(tokenizer, path.parent)


def _find_file(folder: Path) -> Path:
  """Return the tokenizer file of a folder, in Transformers' order of preference."""
  for name in ('tokenizer.json', 'tokenizer.model'):
    if (folder / name).is_file():
      return folder / name
  gguf_files = sorted(folder.glob('[!.]*.gguf'))
  if len(gguf_files) != 1:
    raise FileNotFoundError(
      f'{folder}: no tokenizer.json, no tokenizer.model, and {len(gguf_files)} .gguf'
      ' files; one tokenizer is needed'
    )
  return gguf_files[0]


def _with_stop_ids(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
  """Add the stop tokens of `generation_config.json`: chat models may have several.

  As in Transformers, `config.json` has them where that file has not.
  """
  for name in ('generation_config.json', 'config.json'):
    ids = read_json(folder / name, missing_ok=True).get('eos_token_id')
    if ids is not None:
      break
  ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
  for id in ids:
    if type(id) is not int or not 0 <= id < MAX_ID or len(ids) > MAX_STOP_IDS:
      raise ValueError(
        f'{folder / name}: eos_token_id is {str(ids)[:80]}; it should be a token id or'
        f' up to {MAX_STOP_IDS} of them'
      )
  return dataclasses.replace(
    tokenizer, stop_ids=tuple(dict.fromkeys((*tokenizer.stop_ids, *ids)))
  )
