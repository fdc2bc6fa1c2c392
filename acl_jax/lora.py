# SPDX-License-Identifier: Apache-2.0
"""Low-rank adaptation (LoRA) as a config asks for it: wraps models, writes factors."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from acl_jax import build
from acl_jax.checkpoints import ENCODER_FOLDER, LLAMA_FOLDER, Checkpoint
from acl_jax.config.experiment import TrainConfig
from acl_jax.models.llama import Llama
from acl_jax.models.lora import (
  Factor,
  LoRAConfig,
  apply_lora,
  find_lora_config,
  merge_lora,
  wrapped_matrices,
)
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.sharding.arrays import to_host
from acl_jax.weights.fingerprint import describe
from acl_jax.weights.llama import llama_names
from acl_jax.weights.peft import load_lora, save_lora

ENCODER, LLAMA, ADAPTER = (
  'config.encoder.lora',
  'config.llama.lora',
  'config.adapter.lora',
)


def load_encoder(
  config: TrainConfig, initial: Checkpoint | None
) -> tuple[Encoder, dict[str, Any]]:
  """Load the encoder to train; returns it and the fingerprint of what is frozen of it.

  initial: the checkpoint of `config.init_from`. The fingerprint is empty if all of the
  encoder trains.
  """
  section = config.encoder
  if section.lora is None:
    encoder = build.load_encoder(section, initial)
    is_frozen = section.trains == 'none'
    return encoder, {'encoder': describe(encoder)} if is_frozen else {}
  if initial is not None and initial.encoder is not None:
    raise ValueError(
      f'{initial.encoder}: config.init_from has an encoder of its own; to train it by'
      ' LoRA, set config.encoder.path to it'
    )
  encoder = build.load_encoder(section)
  fingerprint = {'encoder': describe(encoder)}
  if initial and (folder := initial.lora_folder(ENCODER_FOLDER)):
    expected = wrapped_shapes(ENCODER, encoder.tower, section.lora)
    build.load_encoder_lora(encoder, folder)
    _check_equal(ENCODER, encoder.tower, expected, section.lora)
  else:
    _apply(ENCODER, encoder.tower, section.lora, config.seed)
  return encoder, fingerprint


def load_llama(
  config: TrainConfig, initial: Checkpoint | None
) -> tuple[Llama, dict[str, Any]]:
  """Load the LLM, with low-rank updates if these train; as `load_encoder`."""
  llama, lora = build.load_frozen_llama(config.llama), config.llama.lora
  fingerprint = describe(llama)
  folder = initial.lora_folder(LLAMA_FOLDER) if initial else None
  if lora is None:
    if folder:
      raise ValueError(f'{folder}: the LLM of init_from was trained; set {LLAMA}')
  elif folder:
    expected = wrapped_shapes(LLAMA, llama, lora)
    load_lora(llama, llama_names(llama), folder, fingerprint['sha256'])
    _check_equal(LLAMA, llama, expected, lora)
  else:
    _apply(LLAMA, llama, lora, config.seed)
  return llama, {'llama': fingerprint}


def prepare_adapter(config: TrainConfig, adapter: Adapter) -> dict[str, Any]:
  """Wrap or merge the matrices of an adapter in place, as the config asks.

  Returns the fingerprint of what is frozen of it, as `load_encoder`.
  """
  lora, module = config.adapter.lora, adapter
  assert isinstance(module, nnx.Module)
  if lora is None:
    merge_lora(module)
    return {}
  if find_lora_config(module) is None:
    fingerprint = describe(module)
    _apply(ADAPTER, module, lora, config.seed)
    return {'adapter': fingerprint}
  base = merge_lora(nnx.clone(module))
  _check_equal(ADAPTER, module, wrapped_shapes(ADAPTER, base, lora), lora)
  bases = {name: m.base for name, m in wrapped_matrices(module).items()}
  return {'adapter': describe(bases)}


def frozen_attributes(config: TrainConfig, adapter: Adapter) -> tuple[str, ...]:
  """Return the attributes of an adapter of which only low-rank updates train."""
  return adapter.pretrained if config.adapter.lora else ()


def factors_to_host(llama: Llama) -> Llama:
  """Gather the factors of an LLM, not its base, as `to_host`."""
  graphdef, factors, others = nnx.split(llama, Factor, ...)
  return nnx.merge(graphdef, to_host(factors), others)


def save_encoder_lora(
  config: TrainConfig, encoder: Encoder, workdir: Path, fingerprint: dict[str, Any]
) -> None:
  """Write the low-rank updates of an encoder, whose base has this fingerprint."""
  names, folder = build.ENCODERS[encoder.kind].names(encoder.tower), ENCODER_FOLDER
  base = config.encoder.path, fingerprint['sha256']
  save_lora(encoder.tower, names, workdir / folder, *base)


def save_llama_lora(
  config: TrainConfig, llama: Llama, workdir: Path, fingerprint: dict[str, Any]
) -> None:
  """Write the low-rank updates of an LLM, whose base has this fingerprint."""
  base = config.llama.path, fingerprint['sha256']
  save_lora(llama, llama_names(llama), workdir / LLAMA_FOLDER, *base)


def wrapped_shapes(key: str, module: Any, lora: LoRAConfig | None) -> Any:
  """Return the shapes of a module with low-rank updates, if the config has any.

  key: of the config, for errors.
  """
  if lora is None:
    return module
  wrap = lambda base: apply_lora(base, lora, rngs=nnx.Rngs(0))  # noqa: E731
  with _naming(key):
    return jax.eval_shape(wrap, module)


def _apply(key: str, module: nnx.Module, lora: LoRAConfig, seed: int) -> None:
  with _naming(key):
    apply_lora(module, lora, rngs=nnx.Rngs(seed))


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
  """Name the key of the config in errors about targets."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{key}.targets: {error}') from None


def _check_equal(
  key: str, module: nnx.Module, expected: nnx.Module, lora: LoRAConfig
) -> None:
  """Raise ValueError unless a module is wrapped as a config asks; set its dropout."""
  found = find_lora_config(module)
  assert found
  if (found.rank, found.alpha) != (lora.rank, lora.alpha):
    raise ValueError(
      f'{key} has rank {lora.rank} and alpha {lora.alpha:g}; init_from has rank'
      f' {found.rank} and alpha {found.alpha:g}'
    )
  if difference := sorted(wrapped_matrices(expected).keys() ^ set(found.targets)):
    raise ValueError(f'{key}.targets and init_from disagree about {difference[0]}')
  for matrix in wrapped_matrices(module).values():
    matrix.dropout = lora.dropout
