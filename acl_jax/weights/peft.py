# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the low-rank updates of a model as an adapter folder of PEFT.

The folder holds `adapter_config.json` and `adapter_model.safetensors`. The latter's
header has the SHA-256 of the parameters of the base, where it was written here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import einops
import jax.numpy as jnp
import numpy as np
from flax import nnx

from acl_jax.models.lora import (
  LoRAConfig,
  LoRAMatrix,
  apply_lora,
  find_lora_config,
  find_matrices,
  wrapped_matrices,
)
from acl_jax.runtime.files import read_json
from acl_jax.weights import safetensors, table
from acl_jax.weights.configuration import coerce_field_types, select_attributes
from acl_jax.weights.tensor import Tensor

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
PREFIX = 'base_model.model.'
BASE = 'base_sha256'  # metadata key of the weights
FIELD_NAMES = {'r': 'rank', 'lora_alpha': 'alpha', 'lora_dropout': 'dropout'}
OFF = (None, False, {}, [])
# fmt: off
SUPPORTED_VALUES = {
  'peft_type': ('LORA',), 'bias': ('none',),
  'init_lora_weights': (True, False, 'gaussian'),  # others change the base
  **dict.fromkeys((
    'fan_in_fan_out', 'use_rslora', 'use_dora', 'lora_bias', 'use_qalora', 'use_bdlora',
    'modules_to_save', 'rank_pattern', 'alpha_pattern', 'layer_replication',
    'layers_to_transform', 'layers_pattern', 'exclude_modules', 'target_parameters',
    'trainable_token_indices', 'megatron_config', 'loftq_config', 'eva_config',
    'corda_config', 'lora_ga_config', 'velora_config', 'monteclora_config',
    'kasa_config', 'arrow_config', 'alora_invocation_tokens',
  ), OFF),
}
IGNORED = (
  'task_type', 'auto_mapping', 'peft_version', 'base_model_name_or_path', 'revision',
  'inference_mode', 'target_modules', 'megatron_core', 'qalora_group_size',
  'runtime_config', 'ensure_weight_tying',
)
# fmt: on


class Layout(NamedTuple):
  """Where Transformers has a matrix, and how PEFT lays out its factors.

  name: of the module; `{}` is the layer. a, b: einops patterns, tensor -> parameter,
  with R for the rank. ones: trailing axes of size 1, of a convolution's factors.
  """

  name: str
  a: str
  b: str
  ones: int


def is_lora_folder(folder: Path) -> bool:
  """Return whether the folder holds low-rank updates."""
  return (folder / CONFIG).is_file()


def save_lora(
  module: nnx.Module, names: table.Names, folder: Path, base: str, base_sha256: str
) -> None:
  """Write the factors of a module with LoRA, in float32.

  base: path of the base model. base_sha256: `fingerprint.describe` of its parameters.
  """
  config = find_lora_config(module)
  assert config, 'the module has no LoRA'
  tensors, targets, sizes = [], [], {**names.sizes, 'R': config.rank}
  for path, matrix in wrapped_matrices(module).items():
    layout = _find_layout(names.rows, path, matrix.inputs)
    targets.append(layout.name.rpartition('layers.{}.')[2])
    for letter, pattern in (('A', layout.a), ('B', layout.b)):
      factor = np.asarray(getattr(matrix, f'lora_{letter}')[...], np.float32)
      for i, name in enumerate(_layer_names(layout.name, sizes)):
        array = factor[i] if '{' in layout.name else factor
        inverse = ' -> '.join(reversed(pattern.split(' -> ')))
        array = _rearrange(array, inverse, sizes)
        array = array.reshape(*array.shape, *[1] * layout.ones)
        tensors.append(
          (f'{PREFIX}{name}.lora_{letter}.weight', Tensor.from_array(array))
        )
  described = {
    'peft_type': 'LORA',
    'base_model_name_or_path': base,
    'r': config.rank,
    'lora_alpha': int(config.alpha) if config.alpha.is_integer() else config.alpha,
    'lora_dropout': config.dropout,
    'target_modules': targets,
    'bias': 'none',
    'inference_mode': True,
  }
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.write_file(folder / WEIGHTS, tensors, {BASE: base_sha256})
  (folder / CONFIG).write_text(json.dumps(described, indent=2) + '\n')


def load_lora(
  module: nnx.Module, names: table.Names, folder: Path, base_sha256: str
) -> None:
  """Wrap the matrices of a base for which the folder has factors, in place.

  base_sha256: `fingerprint.describe` of the base; ValueError if the folder was trained
  on another one, has an option that is not supported, or tensors that do not fit.
  """
  fields = _read_config(folder / CONFIG)
  path = folder / WEIGHTS
  safetensors.verify_checksum(path)
  trained_on = safetensors.read_metadata(path).get(BASE, base_sha256)
  if trained_on != base_sha256:
    raise ValueError(
      f'{folder}: was trained on another base: the sha256 of its parameters is'
      f' {trained_on}; that of the base of this config is {base_sha256}'
    )
  tensors = {
    _short(name): tensor for name, tensor in safetensors.read_file(path).items()
  }
  sizes = {**names.sizes, 'R': fields['rank']}
  layouts, used = _match(tensors, module, names.rows, sizes, path)
  if unexpected := sorted(tensors.keys() - used):
    raise ValueError(f'{path}: unexpected tensor {unexpected[0]}')
  try:
    config = LoRAConfig(**fields, targets=tuple(layouts))
  except ValueError as error:
    raise ValueError(f'{folder / CONFIG}: {error}') from None
  apply_lora(module, config, rngs=nnx.Rngs(0))
  for target, matrix in wrapped_matrices(module).items():
    _fill(matrix, layouts[target], tensors, sizes)


def _read_config(path: Path) -> dict[str, Any]:
  """Return rank, alpha and dropout."""
  fields = select_attributes(
    read_json(path),
    field_names=FIELD_NAMES,
    supported_values=SUPPORTED_VALUES,
    ignored=IGNORED,
    source=path,
  )
  fields = {'dropout': 0.0} | coerce_field_types(fields, LoRAConfig, source=path)
  for name, ours in FIELD_NAMES.items():
    if ours not in fields:
      raise ValueError(f'{path}: {name} is missing')
  return fields


def _match(
  tensors: Mapping[str, Tensor],
  module: nnx.Module,
  rows: Sequence[table.Row],
  sizes: table.Sizes,
  path: Path,
) -> tuple[dict[str, Layout], set[str]]:
  """Return the layouts of the matrices with factors, by name, and the tensors' names.

  ValueError unless every layer has both factors, in the right shape.
  """
  layouts, used = {}, set()
  for name, matrix in find_matrices(module).items():
    layout = _find_layout(rows, name, matrix.get_metadata()['inputs'])
    expected = {
      f'{layer}.lora_{letter}.weight': pattern
      for layer in _layer_names(layout.name, sizes)
      for letter, pattern in (('A', layout.a), ('B', layout.b))
    }
    if not expected.keys() & tensors.keys():
      continue
    for tensor, pattern in expected.items():
      if tensor not in tensors:
        raise ValueError(f'{path}: tensor {PREFIX}{tensor} is missing')
      shape = (*table.tensor_shape(pattern, sizes), *[1] * layout.ones)
      if tensors[tensor].shape != shape:
        raise ValueError(
          f'{path}: tensor {PREFIX}{tensor} has shape {tensors[tensor].shape}; the base'
          f' and r require {shape}'
        )
    layouts[name] = layout
    used |= expected.keys()
  return layouts, used


def _fill(
  matrix: LoRAMatrix,
  layout: Layout,
  tensors: Mapping[str, Tensor],
  sizes: table.Sizes,
) -> None:
  for letter, pattern in (('A', layout.a), ('B', layout.b)):
    shape = table.tensor_shape(pattern, sizes)
    layers = [
      _rearrange(
        tensors[f'{name}.lora_{letter}.weight'].read().reshape(shape), pattern, sizes
      )
      for name in _layer_names(layout.name, sizes)
    ]
    array = np.stack(layers) if '{' in layout.name else layers[0]
    getattr(matrix, f'lora_{letter}')[...] = jnp.asarray(array, jnp.float32)


def _find_layout(rows: Sequence[table.Row], name: str, inputs: int) -> Layout:
  """Return the layout of the matrix with this dotted name."""
  by_name = {path.removesuffix('/weight'): (t, layout) for t, path, layout in rows}
  tensor, layout = by_name[name.replace('.', '/')]
  (outs, ins, *ones), axes = (table.parse_axes(side) for side in layout.split(' -> '))
  ours = [' '.join(x for x in axis if x in (*outs, *ins)) for axis in axes]
  first, last = (
    ' '.join(f'({axis})' for axis in part) for part in (ours[:inputs], ours[inputs:])
  )
  a, b = f'R ({" ".join(ins)}) -> {first} R', f'({" ".join(outs)}) R -> R {last}'
  return Layout(tensor.removesuffix('.weight'), a, b, len(ones))


def _layer_names(name: str, sizes: table.Sizes) -> list[str]:
  return [name.replace('{}', str(i)) for i in range(sizes['l'] if '{' in name else 1)]


def _rearrange(array: np.ndarray, pattern: str, sizes: table.Sizes) -> np.ndarray:
  letters = {letter for letter in pattern if letter.isalpha()}
  lengths = {letter: sizes[letter] for letter in letters}
  return np.ascontiguousarray(einops.rearrange(array, pattern, **lengths))


def _short(name: str) -> str:
  """Return a tensor's name in the table of an encoder, or of a whole LLM."""
  name = name.removeprefix(PREFIX)
  for whole in ('model.encoder.', 'encoder.'):  # of a model that has this encoder
    name = name.removeprefix(whole)
  return name
