# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import WhisperConfig, WhisperModel

from acl_jax import assets
from acl_jax.weights.whisper import load_whisper, save_whisper_hf
from data_pipeline import audio
from data_pipeline.features import whisper_log_mel

RECORDING = Path(__file__).parents[2] / 'data_pipeline/recordings/audio/added.ogg'
SIZES = dict(
  num_mel_bins=10,
  d_model=24,
  encoder_layers=3,
  encoder_attention_heads=4,
  encoder_ffn_dim=40,
  max_source_positions=15,
)
CODES = {'float32': 0, 'int8': 1, 'int16': 2, 'int32': 3, 'float16': 4}


def new_oracle(sizes):
  torch.manual_seed(0)
  ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3)
  other = dict(vocab_size=53, decoder_layers=1, decoder_attention_heads=2)
  config = WhisperConfig(**sizes, **ids, **other, decoder_ffn_dim=8, init_std=0.2)
  model = WhisperModel(config).eval()
  for name, weight in model.named_parameters():
    if name.endswith(('bias', 'layer_norm.weight')):  # else all zeros and ones
      torch.nn.init.normal_(weight, 0.5, 0.3)
  return model


@pytest.fixture(scope='module')
def oracle():
  return new_oracle(SIZES)


def pairs(layer):
  """CTranslate2's names in a layer -> those of Hugging Face that it holds, in order."""
  theirs, ours = f'encoder/layer_{layer}', f'encoder.layers.{layer}'
  qkv = [f'{ours}.self_attn.{letter}_proj' for letter in 'qkv']
  return {
    f'{theirs}/self_attention/layer_norm': [f'{ours}.self_attn_layer_norm'],
    f'{theirs}/self_attention/linear_0': qkv,
    f'{theirs}/self_attention/linear_1': [f'{ours}.self_attn.out_proj'],
    f'{theirs}/ffn/layer_norm': [f'{ours}.final_layer_norm'],
    f'{theirs}/ffn/linear_0': [f'{ours}.fc1'],
    f'{theirs}/ffn/linear_1': [f'{ours}.fc2'],
  }


def mapping(layers):
  parts = {f'encoder/{name}': [f'encoder.{name}'] for name in ('conv1', 'conv2')}
  parts['encoder/layer_norm'] = ['encoder.layer_norm']
  for layer in range(layers):
    parts |= pairs(layer)
  names = {'encoder/position_encodings/encodings': ['encoder.embed_positions.weight']}
  for theirs, ours in parts.items():
    kinds = ('gamma', 'beta') if 'layer_norm' in theirs else ('weight', 'bias')
    for kind, name in zip(kinds, ('weight', 'bias'), strict=True):
      names[f'{theirs}/{kind}'] = [f'{part}.{name}' for part in ours]
  return names


def model_bin(variables, spec='WhisperSpec', version=6):
  """The file that CTranslate2 writes."""

  def string(text):
    return struct.pack('<H', len(text) + 1) + text.encode() + b'\0'

  out = [struct.pack('<I', version), string(spec), struct.pack('<I', 3)]
  out.append(struct.pack('<I', len(variables)))
  for name, array in variables.items():
    array = np.asarray(array)
    out += [string(name), struct.pack('<B', array.ndim)]
    out.append(struct.pack(f'<{array.ndim}I', *array.shape))
    out.append(struct.pack('<BI', CODES[array.dtype.name], array.nbytes))
    out.append(array.tobytes())
  return b''.join([*out, struct.pack('<I', 0)])


@pytest.fixture(scope='module')
def variables(oracle):
  state = {name: tensor.numpy() for name, tensor in oracle.state_dict().items()}
  keyless = np.zeros(SIZES['d_model'], np.float32)
  found = {'decoder/num_heads': np.int16(2)}
  for theirs, ours in mapping(SIZES['encoder_layers']).items():
    found[theirs] = np.concatenate([state.get(name, keyless) for name in ours])
  return found | {'encoder/num_heads': np.int16(4)}


def write(folder, content):
  (folder / 'model.bin').write_bytes(content)
  return folder


run = jax.jit(lambda model, x: model(x, jnp.ones(x.shape[:2], bool))[0])


def hear(model, log_mel):
  return np.asarray(run(model, log_mel))


def test_both_folders_give_the_same_model(oracle, variables, tmp_path):
  oracle.save_pretrained(tmp_path / 'hf')
  ours = load_whisper(tmp_path / 'hf')
  theirs = load_whisper(write(tmp_path, model_bin(variables)))
  assert ours.config == theirs.config
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  x = np.random.default_rng(0).normal(size=(2, 30, 10)).astype(np.float32)
  with torch.no_grad():
    expected = oracle.encoder(torch.from_numpy(x).mT).last_hidden_state
  np.testing.assert_allclose(hear(theirs, x), expected.numpy(), atol=1e-5)


def test_what_is_written_is_the_encoder_of_transformers(oracle, tmp_path):
  oracle.save_pretrained(tmp_path / 'hf')
  ours = load_whisper(tmp_path / 'hf')
  save_whisper_hf(ours, tmp_path / 'ours')
  again = load_whisper(tmp_path / 'ours')
  assert again.config == ours.config
  jax.tree.map(np.testing.assert_array_equal, again, ours)
  written = load_file(tmp_path / 'ours/model.safetensors')
  expected = {f'model.encoder.{k}': v for k, v in oracle.encoder.state_dict().items()}
  assert set(written) == set(expected)
  for name, tensor in expected.items():
    np.testing.assert_array_equal(written[name], tensor.numpy())


def test_loads_in_another_dtype(variables, tmp_path):
  variables = {
    name: array.astype(np.float16) if array.dtype == np.float32 else array
    for name, array in variables.items()
  }
  write(tmp_path, model_bin(variables))
  for dtype in (jnp.float32, jnp.bfloat16):
    model = load_whisper(tmp_path, dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(dtype)}


def test_the_embedded_model_equals_transformers():
  """An oracle filled from the file by code of our own, on a real recording."""
  folder = assets.resolve('asset:whisper-base')
  model = load_whisper(folder)
  sizes = {name: getattr(model.config, name) for name in SIZES}
  assert sizes['d_model'] == 512 and sizes['encoder_layers'] == 6
  other = dict(decoder_layers=1, decoder_attention_heads=8, vocab_size=51865)
  oracle = WhisperModel(WhisperConfig(**sizes, **other))
  state, left = oracle.state_dict(), dict(scan(folder / 'model.bin'))
  for theirs, ours in mapping(sizes['encoder_layers']).items():
    parts = np.split(left.pop(theirs), len(ours))
    for name, part in zip(ours, parts, strict=True):
      if name not in state:
        assert name.endswith('k_proj.bias') and not part.any()
      else:
        state[name].copy_(torch.from_numpy(part.astype(np.float32)))
  assert left.pop('encoder/num_heads') == sizes['encoder_attention_heads']
  assert not [name for name in left if name.startswith('encoder/')]
  sound = np.zeros(480_000, np.float32)
  recorded = audio.read(RECORDING)
  sound[: len(recorded)] = recorded
  x = whisper_log_mel(sound)[None]
  # Behind the recording is silence, where float32 itself errs: against float64 PyTorch
  # is 2e-4 off there, and we are 8e-4.
  with torch.no_grad():
    expected = oracle.eval().encoder(torch.from_numpy(x).mT).last_hidden_state.numpy()
  actual, signal = hear(model, x), len(recorded) // 320
  np.testing.assert_allclose(actual[:, :signal], expected[:, :signal], atol=1e-4)
  np.testing.assert_allclose(actual, expected, atol=1e-3)


def scan(path):
  """Another reader of `model.bin`, which takes the file at its word."""
  data, at = path.read_bytes(), 0

  def take(code):
    nonlocal at
    values = struct.unpack_from(f'<{code}', data, at)
    at += struct.calcsize(f'<{code}')
    return values

  def string():
    return take(f'{take("H")[0]}s')[0].rstrip(b'\0').decode()

  take('I'), string(), take('I')
  kinds = {code: np.dtype(name) for name, code in CODES.items()}
  for _ in range(take('I')[0]):
    name = string()
    shape = take(f'{take("B")[0]}I')
    code, length = take('BI')
    kind = kinds[code]
    yield (
      name,
      np.frombuffer(data, kind, length // kind.itemsize, at).reshape(shape),
    )
    at += length


@pytest.mark.parametrize(
  'change, message',
  [
    ({'encoder/conv1/bias': None}, 'no tensor conv1.bias'),
    ({'encoder/conv1/weight': None}, 'no Whisper encoder in it'),
    ({'encoder/strange/weight': np.ones(3)}, 'nothing takes strange.weight'),
    ({'encoder/layer_norm/beta': np.ones(25)}, 'layer_norm.bias has shape'),
    ({'encoder/num_heads': np.int16(5)}, 'd_model = 24 is not a multiple of'),
    ({'encoder/num_heads': np.int16(0)}, 'encoder_attention_heads = 0 is not a pos'),
    ({'encoder/num_heads': None}, 'encoder_attention_heads = 0 is not a positive'),
    (
      {'encoder/layer_1/self_attention/linear_0/bias': np.ones(72)},
      'biases the keys, which Whisper does not',
    ),
    (
      {'encoder/layer_1/self_attention/linear_0/bias': np.float32(1)},
      'is a single number',
    ),
    ({'encoder/conv1/bias': np.ones(0)}, 'its shape'),
  ],
)
def test_a_model_bin_of_another_model_is_refused(variables, tmp_path, change, message):
  changed = {name: array for name, array in (variables | change).items()}
  changed = {
    name: np.asarray(a, np.float32 if np.asarray(a).dtype == float else None)
    for name, a in changed.items()
    if a is not None
  }
  with pytest.raises(ValueError, match=message) as error:
    load_whisper(write(tmp_path, model_bin(changed)))
  assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
  'content, message',
  [
    (model_bin({}, version=7), 'binary version 7; only 6 is known'),
    (model_bin({}, spec='TransformerSpec'), "holds a 'TransformerSpec'"),
    (model_bin({}), 'no Whisper encoder in it'),
    (b'', 'ends at byte 0'),
    (model_bin({'encoder/x': np.float32(1)})[:40], 'ends at byte 40, in the middle'),
    (model_bin({'encoder/x': np.float32(1)})[:46], 'needs 4, the file has 46'),
    (
      model_bin({'x': np.int8(1)}).replace(b'\1\1\0\0\0', b'\5\1\0\0\0'),
      'dtype code 5',
    ),
  ],
)
def test_another_or_a_cut_file_is_refused(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    load_whisper(write(tmp_path, content))


@given(data=st.data())
def test_a_damaged_model_bin_is_one_clear_error(variables, tmp_path_factory, data):
  """The header is damaged, or the file is cut; that weights changed nobody can know."""
  folder = tmp_path_factory.mktemp('damaged')
  content = bytearray(model_bin(variables))
  if data.draw(st.booleans()):
    content = content[: data.draw(st.integers(0, len(content) - 5))]
  else:
    for _ in range(data.draw(st.integers(1, 4))):
      place = data.draw(st.integers(0, 700) | st.integers(0, len(content) - 1))
      content[place] = data.draw(st.integers(0, 255))
  try:
    load_whisper(write(folder, bytes(content)))
  except ValueError as error:
    assert str(folder) in str(error)
  finally:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'model_type': 'llama'}, "model_type is 'llama', not 'whisper'"),
    ({'activation_function': 'relu'}, "activation_function is 'relu', not 'gelu'"),
    ({'d_model': None}, 'd_model'),
    ({'encoder_layers': 2}, 'nothing takes layers.2'),
    ({'encoder_layers': 4}, 'no tensor layers.3'),
    ({'encoder_ffn_dim': 41}, 'the configuration asks for'),
  ],
)
def test_a_folder_of_another_model_is_refused(oracle, tmp_path, change, message):
  oracle.save_pretrained(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message) as error:
    load_whisper(tmp_path)
  assert str(tmp_path) in str(error.value)


def test_an_empty_folder_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='neither config.json nor model.bin'):
    load_whisper(tmp_path)
