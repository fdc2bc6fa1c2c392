# SPDX-License-Identifier: Apache-2.0
"""The tensors of an exported model, each to be read when it is written."""

from collections.abc import Iterator
from typing import Any

from jax.typing import DTypeLike

from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.speech_llm import Encoder
from acl_jax.models.whisper import Whisper
from acl_jax.weights.llama import Source, as_huggingface
from acl_jax.weights.parakeet import describe_conformer, export_conformer
from acl_jax.weights.projector import export_projector
from acl_jax.weights.table import Tensor
from acl_jax.weights.whisper import describe_whisper, export_whisper

TOWER, LLM = 'audio_tower.', 'language_model.'


def speech_tensors(
  encoder: Encoder, adapter: CTCAdapter | StrideAdapter
) -> Iterator[tuple[str, Tensor]]:
  """Those of the encoder and the adapter, as they are: they decide what is heard."""
  tower = encoder.encoder if isinstance(encoder, ConformerCTC) else encoder
  whisper = isinstance(tower, Whisper)
  tensors = export_whisper(tower) if whisper else export_conformer(tower)
  for name, tensor in tensors:
    yield TOWER + name, tensor
  yield from export_projector(adapter)


def describe_tower(encoder: Encoder) -> dict[str, Any]:
  """The `audio_config` of an encoder, of which a CTC head stays behind."""
  tower = encoder.encoder if isinstance(encoder, ConformerCTC) else encoder
  whisper = isinstance(tower, Whisper)
  return describe_whisper(tower) if whisper else describe_conformer(tower)


def llm_tensors(source: Source, dtype: DTypeLike) -> Iterator[tuple[str, Tensor]]:
  """Those of the LLM, by Transformers' names."""
  for name, tensor in as_huggingface(source):
    yield LLM + name, tensor.astype(dtype)
