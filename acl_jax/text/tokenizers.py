# SPDX-License-Identifier: Apache-2.0
"""One small interface over the three forms in which Llamas ship their tokenizer:
sentencepiece (`tokenizer.model`), the tokenizers library (`tokenizer.json`), and GGUF.

Text never becomes a control token: `encode('</s>')` spells the string out.
"""

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, SupportsInt

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

ModelProto = sentencepiece_model_pb2.ModelProto  # pyright: ignore[reportAttributeAccessIssue]
After = Literal['nothing', 'control', 'text']


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The sentencepiece library."""

  processor: sentencepiece.SentencePieceProcessor

  def encode(self, text: str) -> list[int]:
    return self.processor.encode(text)

  def decode(self, ids: list[int]) -> str:
    return self.processor.decode(ids)


@dataclasses.dataclass(frozen=True)
class Merges:
  """The tokenizers library, byte-pair merges."""

  tokenizer: tokenizers.Tokenizer

  def encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: list[int]) -> str:
    return self.tokenizer.decode(ids)


Backend = Pieces | Merges


class Backends(NamedTuple):
  """Which to ask, by what a text stands after."""

  nothing: Backend
  control: Backend
  text: Backend


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to token ids and back; picklable, so that loader processes can have it.

  Llama's tokenizers put a space before the first word of a text. Whether they do it
  in the middle of a prompt depends on what stands before: hence three backends.
  """

  backends: Backends = dataclasses.field(repr=False)
  controls: Mapping[str, int]  # control tokens by name
  vocab_size: int
  bos_id: int | None
  eos_id: int
  stop_ids: tuple[int, ...]  # any of these ends a response

  @property
  def opens_with_space(self) -> bool:
    """Whether the first word of a text is tokenised as if a space stood before it."""
    return self.encode('a') != self.encode('a', after='text')

  def encode(self, text: str, *, after: After = 'nothing') -> list[int]:
    """Ids of plain text that stands `after` nothing, a control token, or more text."""
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f'text is not valid Unicode: {error}') from None
    return getattr(self.backends, after).encode(text)

  def decode(self, ids: Iterable[SupportsInt]) -> str:
    """The text of `ids`, without control tokens and padding of the vocabulary."""
    left_out = set(self.controls.values())
    kept = [i for i in map(int, ids) if i < self.vocab_size and i not in left_out]
    return self.backends.nothing.decode(kept)

  def control(self, name: str) -> int:
    """The id of a control token such as '<|im_end|>'."""
    if name not in self.controls:
      raise ValueError(
        f'the tokenizer has no control token {name!r}; it has {sorted(self.controls)}'
      )
    return self.controls[name]


def load_tokenizer(path: str | Path) -> Tokenizer:
  """The tokenizer in a `.model`, `.json` or `.gguf` file, or in a folder with one."""
  path = Path(path)
  if path.is_dir():
    path = _inside(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such tokenizer')
  if path.suffix == '.gguf':
    from acl_jax.text import gguf  # here: loader processes need no weights

    return gguf.load(path)
  loaders = {'.model': _from_model, '.json': _from_json}
  if path.suffix not in loaders:
    raise ValueError(f'{path}: a tokenizer is a .model, .json or .gguf file')
  return loaders[path.suffix](path)


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


# --- sentencepiece ---------------------------------------------------------------


def _from_model(path: Path) -> Tokenizer:
  try:
    model = ModelProto.FromString(path.read_bytes())
    tokenizer = from_sentencepiece(model)
  except Exception as error:  # protobuf's and sentencepiece's have no common base
    raise ValueError(f'{path}: not a sentencepiece model: {error}') from None
  return _with_stop_ids(tokenizer, path.parent)


def from_sentencepiece(model: Any) -> Tokenizer:
  """Of a `ModelProto`; as Meta's own code (and Transformers' `legacy=True`) has it."""
  opening = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
  model = copy.deepcopy(model)
  model.normalizer_spec.add_dummy_prefix = False
  middle = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
  size = opening.vocab_size()
  controls = {opening.id_to_piece(i): i for i in range(size) if opening.is_control(i)}
  if opening.eos_id() < 0:
    raise ValueError('it has no end-of-sequence token')
  start, end = opening.bos_id(), opening.eos_id()
  return Tokenizer(
    backends=Backends(Pieces(opening), Pieces(opening), Pieces(middle)),
    controls=controls,
    vocab_size=size,
    bos_id=start if start >= 0 else None,
    eos_id=end,
    stop_ids=(end,),
  )


# --- tokenizer.json --------------------------------------------------------------


def _from_json(path: Path) -> Tokenizer:
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
  tokenizer = Tokenizer(_backends(spec), controls, size, start, end, (end,))
  return _with_stop_ids(tokenizer, path.parent)


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
    token = _read_json(folder / file).get(name)
    token = token['content'] if isinstance(token, dict) else token
    if isinstance(token, str) and token in controls:
      return controls[token]
  return None


def _with_stop_ids(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
  """Chat models may end a turn with more than one token: `generation_config.json`."""
  ids = _read_json(folder / 'generation_config.json').get('eos_token_id', [])
  ids = [ids] if isinstance(ids, int) else ids
  return dataclasses.replace(
    tokenizer, stop_ids=tuple(dict.fromkeys((tokenizer.eos_id, *ids)))
  )


def _read_json(path: Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}') from None
