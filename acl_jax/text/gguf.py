# SPDX-License-Identifier: Apache-2.0
"""Tokenizers in GGUF files: GPT-2's byte-level BPE and Llama-2's sentencepiece.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, `tokenizer.ggml.*`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from acl_jax.text.model_proto import BPE, ModelProto
from acl_jax.text.sentencepieces import from_sentencepiece
from acl_jax.text.tokenizer import Backends, Tokenizer, TokenizersBackend
from acl_jax.weights import gguf

GetField = Callable[..., Any]  # (name, default=None) -> tokenizer.ggml.<name>
CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type, as in sentencepiece


def load(path: Path) -> Tokenizer:
  """Load the tokenizer of a GGUF file; ValueError says which field is wrong."""
  fields, _ = gguf.read(path)
  try:
    return _build(fields)
  except Exception as error:  # the two libraries share no base class
    raise ValueError(f'{path}: {error}') from None


def _build(fields: Mapping[str, Any]) -> Tokenizer:
  def field(name: str, default: Any = None) -> Any:
    value = fields.get(f'tokenizer.ggml.{name}', default)
    if value is None:
      raise ValueError(f'tokenizer.ggml.{name} is missing')
    return value

  builders = {'gpt2': _byte_level, 'llama': _sentencepiece}
  if field('model') not in builders:
    raise ValueError(
      f'tokenizer.ggml.model is {field("model")!r}; known: {list(builders)}'
    )
  backends = builders[field('model')](field)
  kinds = zip(field('tokens'), field('token_type'), strict=True)
  control_tokens = {
    token: i for i, (token, kind) in enumerate(kinds) if kind == CONTROL
  }
  end = field('eos_token_id')
  return Tokenizer(
    backends,
    control_tokens,
    vocab_size=len(field('tokens')),
    bos_id=fields.get('tokenizer.ggml.bos_token_id'),
    eos_id=end,
    stop_ids=tuple(dict.fromkeys((end, field('eot_token_id', end)))),
  )


def _byte_level(field: GetField) -> Backends:
  """Make GPT-2's byte-level BPE, with the splitter that `tokenizer.ggml.pre` names."""
  splitters = {'smollm': [pre_tokenizers.Digits(individual_digits=True)], 'gpt-2': []}
  if field('pre') not in splitters:
    raise ValueError(
      f'tokenizer.ggml.pre is {field("pre")!r}; known: {list(splitters)}'
    )
  tokens, types = field('tokens'), field('token_type')
  merges = [tuple(merge.split(' ')) for merge in field('merges')]
  vocab = {token: id for id, token in enumerate(tokens)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
  splitter = pre_tokenizers.Sequence([*splitters[field('pre')], byte_level])
  tokenizer.pre_tokenizer = splitter
  tokenizer.decoder = decoders.ByteLevel()
  user_defined = [
    token for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED
  ]
  tokenizer.add_tokens(user_defined)
  backend = TokenizersBackend(tokenizer)
  return Backends(backend, backend, backend)


def _sentencepiece(field: GetField) -> Backends:
  """Rebuild Llama-2's tokenizer.model from its pieces, scores and types."""
  model = ModelProto()
  rows = zip(field('tokens'), field('scores'), field('token_type'), strict=True)
  for token, score, kind in rows:
    model.pieces.add(piece=token, score=score, type=kind)
  model.trainer_spec.model_type = BPE
  model.trainer_spec.byte_fallback = True
  model.trainer_spec.eos_piece = field('tokens')[field('eos_token_id')]
  model.normalizer_spec.name = 'identity'
  model.normalizer_spec.add_dummy_prefix = field('add_space_prefix', True)
  model.normalizer_spec.remove_extra_whitespaces = False
  return from_sentencepiece(model).backends
