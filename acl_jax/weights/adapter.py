# SPDX-License-Identifier: Apache-2.0
"""Saves and loads an adapter: a safetensors file with its config in the header."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.attention_adapter import AttentionAdapter, AttentionAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.lora import LoRAConfig, apply_lora, find_lora_config
from acl_jax.models.protocols import Adapter
from acl_jax.weights import safetensors
from acl_jax.weights.fingerprint import describe
from acl_jax.weights.tensor import Tensor, cast_floats

BASE, FACTORS = 'base', ('lora_A', 'lora_B')  # attributes of a `LoRAMatrix`
TRAILING_SILENCE = 'trailing_silence'  # in the header
KINDS = {
  'ctc': (CTCAdapter, CTCAdapterConfig),
  'stride': (StrideAdapter, StrideAdapterConfig),
  'attention': (AttentionAdapter, AttentionAdapterConfig),
}


def save_adapter(
  path: str | Path,
  adapter: Adapter,
  dtype=np.float32,
  base: str = '',
  trailing_silence: int | None = None,
) -> None:
  """Write all parameters to a safetensors file, keyed by their path in the module.

  dtype: of the floating-point parameters; integer parameters keep theirs.
  base: where the pretrained attributes of an adapter with LoRA come from; all but the
    factors of their updates are left out then, and the file has their fingerprint.
  trailing_silence: log-mel frames of silence that followed every utterance in training.
  Raises ValueError if a parameter is not finite in `dtype`.
  """
  tensors, module = {}, cast(nnx.Module, adapter)
  for path_in_module, variable in nnx.to_flat_state(nnx.state(adapter)):
    key = '/'.join(map(str, path_in_module))
    if base and _is_base(adapter, path_in_module):
      continue
    array = cast_floats(np.asarray(variable[...]), dtype, f'{path}: {key}')
    tensors[key] = Tensor.from_array(array)
  config = {'kind': adapter.kind, **dataclasses.asdict(adapter.config)}
  metadata = {'adapter': json.dumps(config)}
  if base:
    metadata['base'] = json.dumps({'path': base, 'sha256': base_sha256(module)})
  if lora := find_lora_config(module):
    metadata['lora'] = json.dumps(dataclasses.asdict(lora))
  if trailing_silence is not None:
    metadata[TRAILING_SILENCE] = str(trailing_silence)
  safetensors.write_file(Path(path), [*tensors.items()], metadata)


def load_adapter(
  path: str | Path, make_base: Callable[[str, Any], Adapter] | None = None
) -> Adapter:
  """Load a file that `save_adapter` wrote, in float32.

  make_base: given where the base comes from and the config of the adapter, returns the
    adapter without LoRA that a file without its base needs.

  Raises ValueError if the checksum, the header, or the names or shapes of the tensors
  are wrong, or the base is another one; every tensor of the file must be used.
  """
  safetensors.verify_checksum(Path(path))
  try:
    with safe_open(path, 'np') as file:
      metadata = file.metadata() or {}
      config, lora, base = (
        json.loads(metadata.get(key, 'null')) for key in ('adapter', 'lora', 'base')
      )
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (SafetensorError, OSError, ValueError) as error:
    raise ValueError(f'{path}: not a readable safetensors file ({error})') from None
  if not isinstance(config, dict) or str(config.get('kind')) not in KINDS:
    raise ValueError(
      f'{path}: the header has no `adapter` of kind {" or ".join(KINDS)}'
    )
  adapter_class, config_class = KINDS[config.pop('kind')]
  try:
    adapter_config = config_class(**config)
    lora_config = _parse_lora(lora) if lora is not None else None
    create = functools.partial(_create, adapter_class, adapter_config, lora_config)
    abstract = jax.eval_shape(create)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: the `adapter` in the header is not valid: {error}'
    ) from None
  if base is not None:
    tensors |= _read_base(path, base, adapter_config, abstract, make_base)
  graphdef, state = nnx.split(abstract)
  loaded = {}
  for path_in_module, variable in nnx.to_flat_state(state):
    key = '/'.join(map(str, path_in_module))
    if key not in tensors:
      raise ValueError(f'{path}: tensor {key} is missing')
    array = tensors.pop(key)
    if array.shape != variable.shape:
      raise ValueError(
        f'{path}: tensor {key} has shape {array.shape}; the configuration requires'
        f' {variable.shape}'
      )
    loaded[path_in_module] = variable.replace(jnp.asarray(array, variable.dtype))
  if tensors:
    raise ValueError(f'{path}: unexpected tensors {sorted(tensors)}')
  adapter = nnx.merge(graphdef, nnx.from_flat_state(loaded))
  if base is not None and (sha256 := base_sha256(adapter)) != base['sha256']:
    raise ValueError(
      f'{path}: was trained on another base than {base["path"]} now gives: sha256 is'
      f' {sha256}, not {base["sha256"]}'
    )
  return adapter


def read_trailing_silence(path: Path) -> int | None:
  """Return the `trailing_silence` of `save_adapter`; None if the file has none."""
  silence = safetensors.read_metadata(path).get(TRAILING_SILENCE)
  if silence is not None and not re.fullmatch(r'\d{1,5}', silence):
    raise ValueError(
      f'{path}: {TRAILING_SILENCE} in the header is {silence!r}, not a number of frames'
    )
  return None if silence is None else int(silence)


def base_sha256(adapter: nnx.Module) -> str:
  """Return the fingerprint of what `save_adapter` leaves out with a base."""
  return describe(_base(adapter))['sha256']


def _base(adapter: Any) -> dict[str, Any]:
  return {
    '/'.join(map(str, key)): variable[...]
    for key, variable in nnx.to_flat_state(nnx.state(adapter))
    if _is_base(adapter, key)
  }


def _is_base(adapter: Any, path: tuple[Any, ...]) -> bool:
  """Whether a parameter is of the pretrained model, not of an update to it."""
  return path[0] in adapter.pretrained and path[-1] not in FACTORS


def _read_base(
  path: str | Path,
  base: Any,
  config: Any,
  abstract: nnx.Module,
  make_base: Callable[[str, Any], Adapter] | None,
) -> dict[str, np.ndarray]:
  """Return the parameters that a file leaves out, by their keys in `abstract`."""
  is_valid = isinstance(base, dict) and isinstance(base.get('path'), str)
  if not is_valid or 'sha256' not in base or not find_lora_config(abstract):
    raise ValueError(f'{path}: the `base` in the header is not valid: {base!r}')
  if make_base is None:
    raise ValueError(
      f'{path}: holds what LoRA changed in {base["path"]}, which is not given'
    )
  adapter = make_base(base['path'], config)
  parameters = dict(nnx.to_flat_state(nnx.state(adapter)))
  return {
    '/'.join(map(str, key)): np.asarray(parameters[_unwrap(key)][...])
    for key, _ in nnx.to_flat_state(nnx.state(abstract))
    if _is_base(abstract, key)
  }


def _unwrap(path: tuple[Any, ...]) -> tuple[Any, ...]:
  """Return the path of a parameter in the module without LoRA."""
  return path[:-1] if path[-1] == BASE else path


def _parse_lora(fields: dict[str, Any]) -> LoRAConfig:
  targets = tuple(map(str, fields.pop('targets')))
  return LoRAConfig(**fields, targets=targets)


def _create(adapter_class: Any, config: Any, lora: LoRAConfig | None) -> Any:
  adapter = adapter_class(config, rngs=nnx.Rngs(0))
  return apply_lora(adapter, lora, rngs=nnx.Rngs(0)) if lora else adapter
