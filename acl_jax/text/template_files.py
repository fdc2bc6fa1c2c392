# SPDX-License-Identifier: Apache-2.0
"""Where models keep their chat template, in the order in which they are read.

In a Hugging Face folder `chat_template.jinja`, then `tokenizer_config.json`, then
`chat_template.json`; in a GGUF file `tokenizer.chat_template`.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from acl_jax.runtime.files import read_json
from acl_jax.text.chat_template import make_chat_template
from acl_jax.text.sandbox import MAX_TEMPLATE
from acl_jax.text.templates import TEMPLATES, Template, get_template
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.weights import gguf

AUTO = 'auto'  # the model's own
FIELD = 'chat_template'
GGUF_FIELD = f'tokenizer.{FIELD}'
_TOKENS = ('unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token')


class Found(NamedTuple):
  """A template and where it was found: its file and field."""

  source: str
  origin: str


def load_template(name: str, llm: Path, tokenizer: Tokenizer, today: date) -> Template:
  """Load a chat template.

  name: 'auto' for that of the LLM, 'chatml', 'llama2', or a `.jinja` file. llm: its
  folder or GGUF file. ValueError if there is none or it does not work.
  """
  if name in TEMPLATES:
    return get_template(name)
  if name != AUTO and not name.endswith('.jinja'):
    known = ', '.join((AUTO, *sorted(TEMPLATES)))
    raise ValueError(
      f'no chat template {name!r}; config.template is one of {known}, or a .jinja file'
    )
  found = _find(llm) if name == AUTO else _read_file(Path(name))
  if found is None:
    raise ValueError(
      f'{llm} has no chat template, neither in a file chat_template.jinja nor as'
      f' {FIELD} of tokenizer_config.json; set config.template to'
      f' {" or ".join(map(repr, sorted(TEMPLATES)))}, or to a .jinja file'
    )
  if len(found.source) > MAX_TEMPLATE:
    raise ValueError(
      f'{found.origin} has {len(found.source)} characters; the limit is {MAX_TEMPLATE}'
    )
  names = _read_tokens(llm)
  return make_chat_template(found.source, found.origin, tokenizer, today, names)


def _find(llm: Path) -> Found | None:
  if llm.suffix == '.gguf':
    return _read_gguf(llm)
  if (path := llm / f'{FIELD}.jinja').is_file():
    return _read_file(path)
  for name in ('tokenizer_config.json', f'{FIELD}.json'):
    if (value := read_json(llm / name, missing_ok=True).get(FIELD)) is not None:
      return Found(_choose(llm / name, value), f'{llm.name}/{name}: {FIELD}')
  gguf_files = sorted(llm.glob('[!.]*.gguf'))
  return _read_gguf(gguf_files[0]) if len(gguf_files) == 1 else None


def _read_gguf(path: Path) -> Found | None:
  fields, _ = gguf.read(path)
  if (value := fields.get(GGUF_FIELD)) is None:
    return None
  if not isinstance(value, str):
    raise ValueError(f'{path}: {GGUF_FIELD} is no text')
  return Found(value, f'{path.name}: {GGUF_FIELD}')


def _read_file(path: Path) -> Found:
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such chat template')
  if (size := path.stat().st_size) > MAX_TEMPLATE:
    raise ValueError(f'{path} has {size} bytes; the limit is {MAX_TEMPLATE}')
  try:
    return Found(path.read_text(encoding='utf-8'), f'{path.parent.name}/{path.name}')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8 ({error})') from None


def _choose(path: Path, value: Any) -> str:
  """Return the template in a field, which may hold several with names."""
  if isinstance(value, list):
    rows = [row for row in value if isinstance(row, dict)]
    value = {row.get('name'): row.get('template') for row in rows}
    if 'default' not in value:
      raise ValueError(f"{path}: {FIELD} has {[*value]}, and none is called 'default'")
    value = value['default']
  if not isinstance(value, str):
    raise ValueError(f'{path}: {FIELD} is a {type(value).__name__}, not a text')
  return value


def _read_tokens(llm: Path) -> Mapping[str, str]:
  """Return the special tokens of a folder that a template may name."""
  config = read_json(llm / 'tokenizer_config.json', missing_ok=True)
  tokens = {name: config.get(name) for name in _TOKENS}
  contents = {
    n: t.get('content') if isinstance(t, dict) else t for n, t in tokens.items()
  }
  return {name: text for name, text in contents.items() if isinstance(text, str)}
