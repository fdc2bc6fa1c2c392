# SPDX-License-Identifier: Apache-2.0
"""The folder of an Ultravox, which vLLM's `UltravoxModel` serves.

It is the folder of Transformers with other entries in `config.json`: the tensors have
the same names, and the processor answers both callers.
"""

from pathlib import Path
from typing import Any

from acl_jax.exporting.options import REFERENCE, Options
from acl_jax.exporting.parts import Parts
from acl_jax.exporting.transformers_folder import write_transformers
from acl_jax.models.adapters import StrideAdapterConfig
from acl_jax.weights.exported import ULTRAVOX
from acl_jax.weights.huggingface import CONFIG

INSTEAD = 'use --format=transformers, which vLLM serves with the plug-in acl_jax_vllm'


def write_ultravox(output: Path, parts: Parts, options: Options) -> None:
  """Write a folder with the architecture `UltravoxModel`.

  ValueError, with what to use instead, if an Ultravox cannot express the model.
  """
  check_expressible(parts)
  llm = parts.llm.path
  if options.llm == REFERENCE and not (llm / CONFIG).is_file():
    raise ValueError(
      f'{llm}: vLLM cannot load an LLM in this format into an Ultravox. Use'
      ' --llm=include'
    )
  write_transformers(output, parts, options, describe_ultravox)


def check_expressible(parts: Parts) -> None:
  """Raise ValueError unless encoder and adapter are those of an Ultravox."""
  kind = parts.encoder.kind
  if kind != 'whisper':
    raise ValueError(
      f'--format=ultravox: the encoder is a {kind}; an Ultravox has a Whisper:'
      f' {INSTEAD}'
    )
  config = parts.adapter.config
  if not isinstance(config, StrideAdapterConfig):
    raise ValueError(
      f'--format=ultravox: the adapter is of kind {parts.adapter.kind}; an Ultravox'
      f' has a stride adapter: {INSTEAD}'
    )
  if config.hidden_size is None:
    raise ValueError(
      '--format=ultravox: the adapter is one linear map, which no Ultravox has; train'
      f' with config.adapter.hidden_size, or {INSTEAD}'
    )


def describe_ultravox(parts: Parts) -> dict[str, Any]:
  """Return the entries of `config.json` that make it an Ultravox for vLLM."""
  llm = parts.llm.source.config
  return {
    'architectures': ['UltravoxModel'],
    'model_type': ULTRAVOX,
    'ignore_index': -100,
    'vocab_size': llm.vocab_size,
  }
