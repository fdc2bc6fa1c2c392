# SPDX-License-Identifier: Apache-2.0
"""What a report says of the model: its parts, their sizes and files."""

import dataclasses
import json
from typing import Any

import jax
from flax import nnx

from acl_jax import build
from acl_jax.config.experiment import TrainConfig
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.files import sha256
from acl_jax.weights import fingerprint
from data_pipeline.recogniser import BEAM_SIZE


def describe(
  config: TrainConfig, model: SpeechLLM, checkpoint: build.Checkpoint
) -> dict[str, Any]:
  """Return `model` of the report but `cascade`: the parts, their sizes and files."""
  return {
    'encoder': {
      **json.loads(json.dumps(dataclasses.asdict(config.encoder))),
      'parameters': _num_parameters(model.encoder),
    },
    'adapter': {
      'kind': model.adapter.kind,
      'parameters': _num_parameters(model.adapter),
      'file': str(checkpoint.adapter),
      'sha256': sha256(checkpoint.adapter),
      'beams': getattr(model.adapter.config, 'beams', None),
    },
    'llm': {'path': config.llama.path, **fingerprint.describe(model.llama)},
    'template': config.template,
    'max_new_tokens': config.targets.max_new_tokens,
  }


def describe_cascade(path: str, recogniser: Recogniser | None) -> dict[str, Any] | None:
  """Return `cascade` of the report's `model`; None without a recogniser."""
  if recogniser is None:
    return None
  return {'path': path, 'sha256': recogniser.sha256, 'beam_size': BEAM_SIZE}


def _num_parameters(module: Any) -> int:
  leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
  return sum(leaf.size for leaf in leaves)
