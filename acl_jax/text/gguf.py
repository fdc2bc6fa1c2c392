# SPDX-License-Identifier: Apache-2.0
"""Tokenizers in GGUF files: byte-level BPE and Llama-2's sentencepiece.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, `tokenizer.ggml.*`.
The start token that `add_bos_token` asks for comes from the chat template.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acl_jax.text.byte_level import byte_level, find_splitter
from acl_jax.text.model_proto import BPE, ModelProto
from acl_jax.text.sentencepieces import from_sentencepiece
from acl_jax.text.tokenizer import Backends, Tokenizer
from acl_jax.weights import gguf_file

# Values of tokenizer.ggml.token_type, as in sentencepiece.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# Names of control tokens that end a turn, where no field names them.
END_OF_TURN = ('<|eot_id|>', '<|im_end|>', '<|end|>')
END_OF_MESSAGE = '<|eom_id|>'
LOOKS_LIKE_CONTROL = re.compile(r'<\|[^|<>\s]+\|>|</?s>|<pad>')
LOOKS_LIKE_BYTE = re.compile(r'<0x[0-9A-F]{2}>')


class _Fields:
  """The fields `tokenizer.ggml.*` of a file, checked."""

  def __init__(self, metadata: Mapping[str, Any]):
    self._metadata = metadata
    self.tokens: list[str] = self.strings('tokens')
    self.eos_id = self.token_id('eos_token_id')
    self.types = self._read_types()

  def get(self, name: str, default: Any = None) -> Any:
    """Return a field; ValueError if it is missing and has no default."""
    value = self._metadata.get(f'tokenizer.ggml.{name}', default)
    if value is None:
      raise ValueError(f'tokenizer.ggml.{name} is missing')
    return value

  def strings(self, name: str) -> list[str]:
    """Return a field that is a list of strings."""
    value = self.get(name)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
      raise ValueError(f'tokenizer.ggml.{name} is not an array of strings')
    return value

  def numbers(self, name: str) -> list[Any]:
    """Return a field that has a number for each token."""
    value = self.get(name)
    length = len(value) if isinstance(value, list) else 1
    if length != len(self.tokens) or not isinstance(value[0], (int, float)):
      raise ValueError(
        f'tokenizer.ggml.{name} has {length} values, not a number for each of the'
        f' {len(self.tokens)} tokens'
      )
    return value

  def token_id(self, name: str) -> int:
    """Return a field that is the id of a token."""
    id = self.get(name)
    if type(id) is not int or not 0 <= id < len(self.tokens):
      raise ValueError(
        f'tokenizer.ggml.{name} = {id!r:.60} is not one of the {len(self.tokens)} ids'
      )
    return id

  def optional_id(self, name: str) -> int | None:
    """Return a field that is the id of a token, None where it is absent."""
    return self.token_id(name) if self.get(name, -1) != -1 else None

  @property
  def control_tokens(self) -> dict[str, int]:
    """Names and ids of the control tokens."""
    kinds = zip(self.tokens, self.types, strict=True)
    return {token: i for i, (token, kind) in enumerate(kinds) if kind == CONTROL}

  def _read_types(self) -> list[int]:
    """Return the type of each token, CONTROL for those that end or begin something.

    Converters often call these USER_DEFINED. Without the field, names and other fields
    tell the type.
    """
    has_types = self.get('token_type', ()) != ()
    types = self.numbers('token_type') if has_types else [None] * len(self.tokens)
    names = ('bos_token_id', 'eos_token_id', 'eot_token_id', 'eom_token_id')
    control = {self.optional_id(name) for name in names}
    pieces = self.get('model') == 'llama'
    unknown = self.optional_id('unknown_token_id') or 0

    def decide(id: int, token: str, kind: int | None) -> int:
      named = kind in (None, USER_DEFINED) and LOOKS_LIKE_CONTROL.fullmatch(token)
      if id in control or named:
        return CONTROL
      if kind is not None:
        return kind
      if pieces and id == unknown:
        return UNKNOWN
      return BYTE if pieces and LOOKS_LIKE_BYTE.fullmatch(token) else NORMAL

    rows = enumerate(zip(self.tokens, types, strict=True))
    return [decide(id, token, kind) for id, (token, kind) in rows]


def load(path: Path) -> Tokenizer:
  """Load the tokenizer of a GGUF file; ValueError says which field is wrong."""
  metadata, _ = gguf_file.read(path)
  try:
    return _build(metadata)
  except Exception as error:  # the two libraries share no base class
    raise ValueError(f'{path}: {error}') from None


def _build(metadata: Mapping[str, Any]) -> Tokenizer:
  builders = {'gpt2': _byte_level, 'llama': _sentencepiece}
  kind = metadata.get('tokenizer.ggml.model')
  if kind not in builders:
    raise ValueError(f'tokenizer.ggml.model is {kind!r:.60}; known: {list(builders)}')
  fields = _Fields(metadata)
  return Tokenizer(
    builders[kind](fields),
    fields.control_tokens,
    vocab_size=len(fields.tokens),
    bos_id=fields.optional_id('bos_token_id'),
    eos_id=fields.eos_id,
    stop_ids=_stop_ids(fields),
  )


def _stop_ids(fields: _Fields) -> tuple[int, ...]:
  """Return the ids that end a response: of text, of a turn and of a message."""
  control = fields.control_tokens
  turn, message = (fields.optional_id(f'{name}_token_id') for name in ('eot', 'eom'))
  if turn is None:
    turn = next((control[name] for name in END_OF_TURN if name in control), None)
  if message is None:
    message = control.get(END_OF_MESSAGE)
  ids = (fields.eos_id, turn, message)
  return tuple(dict.fromkeys(id for id in ids if id is not None))


def _byte_level(fields: _Fields) -> Backends:
  """Make byte-level BPE with the splitter that `tokenizer.ggml.pre` names."""
  name = fields.get('pre')
  try:
    splitter = find_splitter(name)
  except ValueError as error:
    raise ValueError(f'tokenizer.ggml.pre: {error}') from None
  halves = (merge.partition(' ') for merge in fields.strings('merges'))
  merges = [(left, right) for left, _, right in halves]
  vocab = {token: id for id, token in enumerate(fields.tokens)}
  pieces = (piece for left, right in merges for piece in (left, right, left + right))
  for piece in pieces:
    if piece not in vocab:
      raise ValueError(f'tokenizer.ggml.merges: {piece!r:.60} is not a token')
  kinds = zip(fields.tokens, fields.types, strict=True)
  return byte_level(
    vocab,
    merges,
    splitter,
    control=fields.control_tokens,
    user_defined=[token for token, kind in kinds if kind == USER_DEFINED],
  )


def _sentencepiece(fields: _Fields) -> Backends:
  """Rebuild Llama-2's tokenizer.model from its pieces, scores and types."""
  model = ModelProto()
  scores = fields.numbers('scores')
  for token, score, kind in zip(fields.tokens, scores, fields.types, strict=True):
    model.pieces.add(piece=token, score=score, type=kind)
  model.trainer_spec.model_type = BPE
  model.trainer_spec.byte_fallback = True
  model.trainer_spec.eos_piece = fields.tokens[fields.eos_id]
  model.normalizer_spec.name = 'identity'
  model.normalizer_spec.add_dummy_prefix = fields.get('add_space_prefix', True)
  model.normalizer_spec.remove_extra_whitespaces = False
  return from_sentencepiece(model).backends
