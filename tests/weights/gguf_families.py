# SPDX-License-Identifier: Apache-2.0
"""The families of LLMs as GGUF files: their architectures, and what they must equal."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from flax import nnx

from acl_jax.weights.llama import load_llama
from tests.models import families
from tests.models.families import FAMILIES
from tests.weights.gguf_writer import write_gguf

# llama.cpp has no key for the window of Qwen2.
ARCHITECTURES = {
  name: 'llama' if family.model_type in ('llama', 'mistral') else family.model_type
  for name, family in FAMILIES.items()
  if name != 'qwen2-window'
}


def build(name: str) -> Any:
  """Build a model of Transformers; SmolLM3's has the layers that llama.cpp knows."""
  if name != 'smollm3':
    return families.build(name)
  fields = {'num_hidden_layers': 5, 'layer_types': None, 'no_rope_layers': None}
  config = type(FAMILIES[name].config)(**FAMILIES[name].config.to_dict() | fields)
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  generator = torch.Generator().manual_seed(0)
  for parameter in model.parameters():
    parameter.data.normal_(0.1, 0.3, generator=generator)
  return model


def write(name: str, path: Path, architecture: str | None = None) -> Path:
  """Write the model of a family."""
  window = {'attention.sliding_window': 5} if name == 'mistral-window' else {}
  return write_gguf(path, build(name), architecture or ARCHITECTURES[name], **window)


def check_gguf(name: str, folder: Path, architecture: str | None = None) -> None:
  """Compare a GGUF file, to the bit, with the Hugging Face folder of the model."""
  build(name).save_pretrained(folder / 'folder')
  expected = load_llama(folder / 'folder')
  actual = load_llama(write(name, folder / 'x.gguf', architecture))
  jax.tree.map(np.testing.assert_array_equal, nnx.state(actual), nnx.state(expected))
  a, b = actual.config, expected.config
  if 'mistral' in (a.model_type, b.model_type):  # Llama to llama.cpp, without a window
    a, b = (dataclasses.replace(config, model_type='llama') for config in (a, b))
  assert a == b
