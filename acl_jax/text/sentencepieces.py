# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of Llama-2 as published: a sentencepiece model, `tokenizer.model`."""

import copy
from pathlib import Path
from typing import Any

import sentencepiece

from acl_jax.text.model_proto import ModelProto
from acl_jax.text.tokenizer import Backends, Pieces, Tokenizer


def load(path: Path) -> Tokenizer:
  """The tokenizer of a `tokenizer.model`."""
  try:
    model = ModelProto.FromString(path.read_bytes())
    return from_sentencepiece(model)
  except Exception as error:  # protobuf's and sentencepiece's have no common base
    raise ValueError(f'{path}: not a sentencepiece model: {error}') from None


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
