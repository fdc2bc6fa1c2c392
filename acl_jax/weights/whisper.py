# SPDX-License-Identifier: Apache-2.0
"""Whisper's encoder from a Hugging Face folder or a CTranslate2 folder."""

import dataclasses
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models import whisper
from acl_jax.weights import safetensors, table
from acl_jax.weights.exported import open_part
from acl_jax.weights.table import Tensor

# d and e are the width, c the kernel, o the output of a convolution.
_LAYER = (
  ('self_attn.q_proj.weight', 'q_proj/weight', 'e d -> d e'),
  ('self_attn.q_proj.bias', 'q_proj/bias', 'd -> d'),
  ('self_attn.k_proj.weight', 'k_proj', 'e d -> d e'),
  ('self_attn.v_proj.weight', 'v_proj/weight', 'e d -> d e'),
  ('self_attn.v_proj.bias', 'v_proj/bias', 'd -> d'),
  ('self_attn.out_proj.weight', 'out_proj/weight', 'e d -> d e'),
  ('self_attn.out_proj.bias', 'out_proj/bias', 'd -> d'),
  ('self_attn_layer_norm.weight', 'self_attn_layer_norm/weight', 'd -> d'),
  ('self_attn_layer_norm.bias', 'self_attn_layer_norm/bias', 'd -> d'),
  ('fc1.weight', 'fc1/weight', 'f d -> d f'),
  ('fc1.bias', 'fc1/bias', 'f -> f'),
  ('fc2.weight', 'fc2/weight', 'd f -> f d'),
  ('fc2.bias', 'fc2/bias', 'd -> d'),
  ('final_layer_norm.weight', 'final_layer_norm/weight', 'd -> d'),
  ('final_layer_norm.bias', 'final_layer_norm/bias', 'd -> d'),
)
HUGGING_FACE = (
  ('conv1.weight', 'conv1/weight', 'o m c -> c m o'),
  ('conv1.bias', 'conv1/bias', 'd -> d'),
  ('conv2.weight', 'conv2/weight', 'o d c -> c d o'),
  ('conv2.bias', 'conv2/bias', 'd -> d'),
  ('embed_positions.weight', 'embed_positions', 'p d -> p d'),
  *((f'layers.{{}}.{name}', f'layers/{path}', layout) for name, path, layout in _LAYER),
  ('layer_norm.weight', 'layer_norm/weight', 'd -> d'),
  ('layer_norm.bias', 'layer_norm/bias', 'd -> d'),
)
# CTranslate2's name of a part -> Hugging Face's. Its linear_0 holds q, k and v.
_CTRANSLATE2 = {
  'position_encodings.encodings': 'embed_positions.weight',
  'self_attention.layer_norm': 'self_attn_layer_norm',
  'self_attention.linear_1': 'self_attn.out_proj',
  'ffn.layer_norm': 'final_layer_norm',
  'ffn.linear_0': 'fc1',
  'ffn.linear_1': 'fc2',
  'gamma': 'weight',
  'beta': 'bias',
}
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


# Attributes of Hugging Face's under which the encoder is the one we compute.
_FIXED = {'model_type': 'whisper', 'activation_function': 'gelu'}


def load_whisper(folder: str | Path, dtype: DTypeLike = jnp.float32) -> whisper.Whisper:
  """The encoder in a folder with `config.json` + safetensors, or with `model.bin`."""
  folder = Path(folder)
  if (folder / 'model.bin').is_file():
    source = folder / 'model.bin'
    tensors, num_heads = _read_ctranslate2(source)
    config = _config_of_shapes(tensors, num_heads, source)
  elif (folder / 'config.json').is_file():
    source = folder
    found, tensors = open_part(folder, 'audio_config', 'audio_tower.')
    config = _config_of_folder(found, folder / 'config.json')
    tensors = {
      name.removeprefix('model.').removeprefix('encoder.'): tensor
      for name, tensor in tensors.items()
      if not name.removeprefix('model.').startswith(('decoder.', 'proj_out.'))
    }
  else:
    raise FileNotFoundError(f'{folder} holds neither config.json nor model.bin')
  model = jax.eval_shape(lambda: whisper.Whisper(config, rngs=nnx.Rngs(0)))
  sizes, dtype = _sizes(config), jnp.dtype(dtype)
  return table.fill(
    model, HUGGING_FACE, tensors, sizes, source=str(source), dtype=dtype
  )


def save_whisper_hf(model: whisper.Whisper, folder: str | Path) -> None:
  """Writes a folder that `load_whisper` reads, with the names of Transformers."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tensors = export_whisper(model)
  safetensors.write(folder, ((f'model.encoder.{name}', x) for name, x in tensors))
  config = json.dumps(describe_whisper(model), indent=2)
  (folder / 'config.json').write_text(config + '\n')


def export_whisper(model: whisper.Whisper) -> Iterator[tuple[str, Tensor]]:
  """Its tensors by the names of Transformers' `WhisperEncoder`."""
  return table.export(model, HUGGING_FACE, _sizes(model.config))


def describe_whisper(model: whisper.Whisper) -> dict[str, Any]:
  """What `config.json` says of it."""
  return _FIXED | dataclasses.asdict(model.config)


def _sizes(config: whisper.WhisperConfig) -> dict[str, int]:
  d = config.d_model
  return {
    **{'d': d, 'e': d, 'o': d, 'f': config.encoder_ffn_dim, 'c': 3},
    **{'m': config.num_mel_bins, 'p': config.max_source_positions},
    'l': config.encoder_layers,
  }


def _config_of_folder(found: dict[str, Any], path: Path) -> whisper.WhisperConfig:
  for key, value in _FIXED.items():
    if found.get(key) != value:
      raise ValueError(f'{path}: {key} is {found.get(key)!r}, not {value!r}')
  names = [field.name for field in dataclasses.fields(whisper.WhisperConfig)]
  return _config(path, **{name: found.get(name) for name in names})


def _config_of_shapes(tensors, num_heads: int, source: Path) -> whisper.WhisperConfig:
  try:
    return _config(
      source,
      num_mel_bins=tensors['conv1.weight'].shape[1],
      d_model=tensors['conv1.weight'].shape[0],
      encoder_layers=sum(name.endswith('.fc1.bias') for name in tensors),
      encoder_attention_heads=num_heads,
      encoder_ffn_dim=tensors['layers.0.fc1.bias'].shape[0],
      max_source_positions=tensors['embed_positions.weight'].shape[0],
    )
  except (KeyError, IndexError) as error:
    raise ValueError(f'{source}: no Whisper encoder in it ({error})') from None


def _config(source: Path, **fields) -> whisper.WhisperConfig:
  try:
    return whisper.WhisperConfig(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{source}: {error}') from None


def _read_ctranslate2(path: Path) -> tuple[dict[str, Tensor], int]:
  """The encoder's tensors by Hugging Face's names, and the number of heads."""
  tensors, num_heads = {}, 0
  for name, tensor in _scan_ctranslate2(path):
    if not name.startswith('encoder/'):
      continue
    name = (
      name.removeprefix('encoder/').replace('/', '.').replace('layer_', 'layers.', 1)
    )
    name = name.replace('layers.norm', 'layer_norm', 1)
    if name == 'num_heads':
      num_heads = int(tensor.read().flat[0])
    elif '.self_attention.linear_0.' in name:
      tensors |= _split_qkv(name, tensor, path)
    else:
      for theirs, ours in _CTRANSLATE2.items():
        name = name.replace(theirs, ours)
      tensors[name] = tensor
  return tensors, num_heads


def _split_qkv(name: str, tensor: Tensor, path: Path) -> dict[str, Tensor]:
  prefix, _, kind = name.partition('.self_attention.linear_0.')
  if not tensor.shape:
    raise ValueError(f'{path}: {name} is a single number')
  width = tensor.shape[0] // 3

  def part(i: int) -> Tensor:
    read = lambda: tensor.read()[i * width : (i + 1) * width]  # noqa: E731
    return Tensor((width, *tensor.shape[1:]), read)

  if kind == 'bias' and np.any(part(1).read()):
    raise ValueError(f'{path}: {name} biases the keys, which Whisper does not')
  names = 'qkv' if kind == 'weight' else 'qv'
  return {f'{prefix}.self_attn.{n}_proj.{kind}': part('qkv'.index(n)) for n in names}


def _scan_ctranslate2(path: Path) -> Iterator[tuple[str, Tensor]]:
  """Every variable of a CTranslate2 `model.bin`, version 6; nothing is read yet."""
  size = path.stat().st_size
  with path.open('rb') as file:

    def number(code: str) -> int:
      data = file.read(struct.calcsize(code))
      if len(data) < struct.calcsize(code):
        raise ValueError(f'{path}: ends at byte {size}, in the middle of a header')
      return struct.unpack(code, data)[0]

    def string() -> str:
      data = file.read(number('<H'))
      return data.rstrip(b'\0').decode('ascii', errors='replace')

    if (version := number('<I')) != 6:
      raise ValueError(f'{path}: binary version {version}; only 6 is known')
    if (spec := string()) != 'WhisperSpec':
      raise ValueError(f'{path}: holds a {spec!r}, not a WhisperSpec')
    number('<I')  # revision of the spec
    for _ in range(number('<I')):
      name = string()
      shape = tuple(number('<I') for _ in range(number('<B')))
      code, length, start = number('<B'), number('<I'), file.tell()
      if code not in _DTYPES:
        raise ValueError(f'{path}: {name} has dtype code {code}; known are 0 to 4')
      dtype = np.dtype(_DTYPES[code])
      needed = math.prod(shape) * dtype.itemsize
      if not 0 < needed == length <= size - start:
        raise ValueError(
          f'{path}: {name} takes {length} bytes at byte {start}, its shape'
          f' {list(shape)} needs {needed}, the file has {size}'
        )
      yield name, Tensor(shape, _reader(path, dtype, start, shape))
      file.seek(start + length)


def _reader(path: Path, dtype: np.dtype, start: int, shape: tuple[int, ...]):
  return lambda: np.memmap(path, dtype, 'r', start, shape or (1,)).reshape(shape)
