# SPDX-License-Identifier: Apache-2.0
"""The tensors of an exported model; each is read when it is written."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.typing import DTypeLike

from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.weights.llama import Source, convert_to_huggingface
from acl_jax.weights.parakeet import describe_conformer, export_conformer
from acl_jax.weights.projector import export_projector
from acl_jax.weights.tensor import Tensor
from acl_jax.weights.whisper import describe_whisper, export_whisper

TOWER_PREFIX, LLM_PREFIX = 'audio_tower.', 'language_model.'


class TowerFormat(NamedTuple):
  """How Transformers represents an encoder without its CTC head.

  export: yields its tensors by name. describe: returns its `audio_config`.
  """

  export: Callable[[Any], Iterator[tuple[str, Tensor]]]
  describe: Callable[[Any], dict[str, Any]]


TOWERS = {
  'conformer': TowerFormat(export_conformer, describe_conformer),
  'whisper': TowerFormat(export_whisper, describe_whisper),
}


def speech_tensors(encoder: Encoder, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
  """Yield the tensors of the encoder, without a CTC head, and of the adapter.

  Their dtype is kept, whatever the LLM's: they are small, and accuracy depends on them.
  """
  for name, tensor in TOWERS[encoder.kind].export(encoder.tower):
    yield TOWER_PREFIX + name, tensor
  yield from export_projector(adapter)


def describe_tower(encoder: Encoder) -> dict[str, Any]:
  """Return the `audio_config` of an encoder, without a CTC head."""
  return TOWERS[encoder.kind].describe(encoder.tower)


def llm_tensors(source: Source, dtype: DTypeLike) -> Iterator[tuple[str, Tensor]]:
  """Yield the tensors of the LLM by Transformers' names."""
  for name, tensor in convert_to_huggingface(source):
    yield LLM_PREFIX + name, tensor.astype(dtype)
