# SPDX-License-Identifier: Apache-2.0
"""Llama-2's tokenizer as published: a sentencepiece model, `tokenizer.model`."""

import copy
from pathlib import Path
from typing import Any

import sentencepiece

from acl_jax.text.model_proto import ModelProto
from acl_jax.text.tokenizer import Backends, SentencePieceBackend, Tokenizer


def load(path: Path) -> Tokenizer:
  """Load a `tokenizer.model`; ValueError if it is no sentencepiece model."""
  try:
    model = ModelProto.FromString(path.read_bytes())
    return from_sentencepiece(model)
  except Exception as error:  # protobuf and sentencepiece share no base class
    raise ValueError(f'{path}: not a sentencepiece model: {error}') from None


def from_sentencepiece(model: Any) -> Tokenizer:
  """Make the tokenizer of a `ModelProto`.

  Equal to Meta's own code and to Transformers with `legacy=True`.
  """
  processor = _make_processor(model)
  model = copy.deepcopy(model)
  model.normalizer_spec.add_dummy_prefix = False
  with_prefix = SentencePieceBackend(processor)
  without_prefix = SentencePieceBackend(_make_processor(model))
  size = processor.vocab_size()
  control_tokens = {
    processor.id_to_piece(i): i for i in range(size) if processor.is_control(i)
  }
  if processor.eos_id() < 0:
    raise ValueError('the model has no end-of-sequence token')
  start, end = processor.bos_id(), processor.eos_id()
  return Tokenizer(
    backends=Backends(with_prefix, with_prefix, without_prefix),
    control_tokens=control_tokens,
    vocab_size=size,
    bos_id=start if start >= 0 else None,
    eos_id=end,
    stop_ids=(end,),
  )


def _make_processor(model: Any) -> sentencepiece.SentencePieceProcessor:
  return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
