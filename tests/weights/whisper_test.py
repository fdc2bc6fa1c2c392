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
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from acl_jax import assets
from acl_jax.weights.whisper import load_whisper, save_whisper
from data_pipeline import audio
from data_pipeline.features import Frontend, whisper_log_mel

UTTERANCE = Path(__file__).parents[2] / 'data_pipeline/recordings/audio/added.ogg'
SIZES = dict(
  num_mel_bins=10,
  d_model=24,
  encoder_layers=3,
  encoder_attention_heads=4,
  encoder_ffn_dim=40,
  max_source_positions=15,
)
CODES = {'float32': 0, 'int8': 1, 'int16': 2, 'int32': 3, 'float16': 4}


def build_reference(sizes):
  """Build a WhisperModel with a minimal decoder, as `load_whisper` ignores it."""
  torch.manual_seed(0)
  config = WhisperConfig(
    **sizes,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=3,
    vocab_size=53,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=8,
    init_std=0.2,
  )
  model = WhisperModel(config).eval()
  for name, weight in model.named_parameters():
    if name.endswith(('bias', 'layer_norm.weight')):  # zeros and ones initially
      torch.nn.init.normal_(weight, 0.5, 0.3)
  return model


@pytest.fixture(scope='module')
def reference():
  return build_reference(SIZES)


def layer_modules(layer):
  """Map a layer's modules in CTranslate2 to those in Hugging Face that they hold."""
  source, target = f'encoder/layer_{layer}', f'encoder.layers.{layer}'
  qkv = [f'{target}.self_attn.{letter}_proj' for letter in 'qkv']
  return {
    f'{source}/self_attention/layer_norm': [f'{target}.self_attn_layer_norm'],
    f'{source}/self_attention/linear_0': qkv,
    f'{source}/self_attention/linear_1': [f'{target}.self_attn.out_proj'],
    f'{source}/ffn/layer_norm': [f'{target}.final_layer_norm'],
    f'{source}/ffn/linear_0': [f'{target}.fc1'],
    f'{source}/ffn/linear_1': [f'{target}.fc2'],
  }


def name_map(num_layers):
  """Map CTranslate2's names to those of Hugging Face that they hold, in order."""
  modules = {f'encoder/{name}': [f'encoder.{name}'] for name in ('conv1', 'conv2')}
  modules['encoder/layer_norm'] = ['encoder.layer_norm']
  for layer in range(num_layers):
    modules |= layer_modules(layer)
  names = {'encoder/position_encodings/encodings': ['encoder.embed_positions.weight']}
  for source, targets in modules.items():
    kinds = ('gamma', 'beta') if 'layer_norm' in source else ('weight', 'bias')
    for kind, name in zip(kinds, ('weight', 'bias'), strict=True):
      names[f'{source}/{kind}'] = [f'{target}.{name}' for target in targets]
  return names


def model_bin(variables, spec='WhisperSpec', version=6):
  """Return the content of a file that CTranslate2 writes."""

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
def variables(reference):
  """The variables of the reference in CTranslate2's format."""
  state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
  no_key_bias = np.zeros(SIZES['d_model'], np.float32)
  arrays = {'decoder/num_heads': np.int16(2)}
  for source, targets in name_map(SIZES['encoder_layers']).items():
    arrays[source] = np.concatenate([state.get(name, no_key_bias) for name in targets])
  return arrays | {'encoder/num_heads': np.int16(4)}


def write(folder, content):
  (folder / 'model.bin').write_bytes(content)
  return folder


@jax.jit
def encode(model, log_mel):
  return model(log_mel, jnp.ones(log_mel.shape[:2], bool))[0]


def reference_frames(reference, log_mel):
  with torch.no_grad():
    return reference.encoder(torch.from_numpy(log_mel).mT).last_hidden_state.numpy()


def test_both_formats_give_the_same_model(reference, variables, tmp_path):
  reference.save_pretrained(tmp_path / 'hf')
  from_hf = load_whisper(tmp_path / 'hf')
  model = load_whisper(write(tmp_path, model_bin(variables)))
  assert from_hf.config == model.config
  jax.tree.map(np.testing.assert_array_equal, from_hf, model)
  x = np.random.default_rng(0).normal(size=(2, 30, 10)).astype(np.float32)
  expected = reference_frames(reference, x)
  np.testing.assert_allclose(encode(model, x), expected, atol=1e-5)


def test_saved_tensors_are_those_of_transformers(reference, tmp_path):
  reference.save_pretrained(tmp_path / 'hf')
  model = load_whisper(tmp_path / 'hf')
  save_whisper(model, tmp_path / 'saved')
  reloaded = load_whisper(tmp_path / 'saved')
  assert reloaded.config == model.config
  jax.tree.map(np.testing.assert_array_equal, reloaded, model)
  written = load_file(tmp_path / 'saved/model.safetensors')
  state = reference.encoder.state_dict()
  expected = {f'model.encoder.{name}': tensor for name, tensor in state.items()}
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


def test_a_model_of_128_mel_bins_equals_transformers_from_the_audio_on(tmp_path):
  """As the third version has, in float16, with a decoder and its output beside it."""
  sizes = SIZES | {'num_mel_bins': 128, 'max_source_positions': 1_500}
  reference = build_reference(sizes | {'encoder_layers': 1}).half()
  reference.save_pretrained(tmp_path / 'published')
  model = load_whisper(tmp_path / 'published')
  save_whisper(model, tmp_path / 'saved')
  saved = load_whisper(tmp_path / 'saved')
  assert saved.config == model.config and model.config.num_mel_bins == 128
  jax.tree.map(np.testing.assert_array_equal, saved, model)
  samples = np.pad(audio.read(UTTERANCE), (0, 7))[:9_600]
  log_mel = Frontend.of(model.config).log_mel(np.pad(samples, (0, 470_400)))[None]
  extractor = WhisperFeatureExtractor(feature_size=128)
  inputs = extractor(samples, sampling_rate=16_000, return_tensors='np')
  expected = reference_frames(reference.float(), inputs['input_features'].mT)
  np.testing.assert_allclose(encode(saved, log_mel), expected, atol=1e-3)


@pytest.mark.full
def test_the_embedded_model_equals_transformers():
  """Compare with a reference that a second reader fills, on a real utterance."""
  folder = assets.resolve('asset:whisper-base')
  model = load_whisper(folder)
  sizes = {name: getattr(model.config, name) for name in SIZES}
  assert sizes['d_model'] == 512 and sizes['encoder_layers'] == 6
  reference = build_reference(sizes)
  state, remaining = reference.state_dict(), dict(scan(folder / 'model.bin'))
  for source, targets in name_map(sizes['encoder_layers']).items():
    parts = np.split(remaining.pop(source), len(targets))
    for name, part in zip(targets, parts, strict=True):
      if name not in state:
        assert name.endswith('k_proj.bias') and not part.any()
      else:
        state[name].copy_(torch.from_numpy(part.astype(np.float32)))
  assert remaining.pop('encoder/num_heads') == sizes['encoder_attention_heads']
  assert not [name for name in remaining if name.startswith('encoder/')]
  utterance, samples = audio.read(UTTERANCE), np.zeros(480_000, np.float32)
  samples[: len(utterance)] = utterance
  x = whisper_log_mel(samples)[None]
  expected, actual = reference_frames(reference, x), encode(model, x)
  length = len(utterance) // 320
  np.testing.assert_allclose(actual[:, :length], expected[:, :length], atol=1e-4)
  # The silence after the utterance is less exact: compared with float64, the float32
  # frames of PyTorch differ by up to 2e-4 there, and ours by 8e-4.
  np.testing.assert_allclose(actual, expected, atol=1e-3)


def scan(path):
  """A second reader of `model.bin`, without checks."""
  data, at = path.read_bytes(), 0

  def take(code):
    nonlocal at
    values = struct.unpack_from(f'<{code}', data, at)
    at += struct.calcsize(f'<{code}')
    return values

  def string():
    return take(f'{take("H")[0]}s')[0].rstrip(b'\0').decode()

  take('I'), string(), take('I')
  dtypes = {code: np.dtype(name) for name, code in CODES.items()}
  for _ in range(take('I')[0]):
    name = string()
    shape = take(f'{take("B")[0]}I')
    code, length = take('BI')
    numbers = np.frombuffer(data[at : at + length], dtypes[code])
    yield name, numbers.reshape(shape)
    at += length


@pytest.mark.parametrize(
  'change, message',
  [
    ({'encoder/conv1/bias': None}, r'conv1\.bias'),
    ({'encoder/conv1/weight': None}, r'conv1\.weight'),
    ({'encoder/strange/weight': np.ones(3)}, r'strange\.weight'),
    ({'encoder/layer_norm/beta': np.ones(25)}, r'layer_norm\.bias .*25.*24'),
    ({'encoder/num_heads': np.int16(5)}, 'd_model = 24'),
    ({'encoder/num_heads': np.int16(0)}, 'encoder_attention_heads = 0'),
    ({'encoder/num_heads': None}, 'encoder_attention_heads = 0'),
    (
      {'encoder/layer_1/self_attention/linear_0/bias': np.ones(72)},
      r'layers\.1\.self_attention\.linear_0\.bias .*\bkey',
    ),
    (
      {'encoder/layer_1/self_attention/linear_0/bias': np.float32(1)},
      r'layers\.1\.self_attention\.linear_0\.bias .*scalar',
    ),
    ({'encoder/conv1/bias': np.ones(0)}, r'conv1/bias .*\[0\]'),
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
    (model_bin({}, version=7), r'version 7\b.* 6\b'),
    (model_bin({}, spec='TransformerSpec'), "'TransformerSpec'"),
    (model_bin({}), r'conv1\.weight'),
    (b'', r'byte 0\b'),
    (model_bin({'encoder/x': np.float32(1)})[:40], r'byte 40\b'),
    (model_bin({'encoder/x': np.float32(1)})[:46], r'needs 4\b.* 46\b'),
    (
      model_bin({'x': np.int8(1)}).replace(b'\1\1\0\0\0', b'\5\1\0\0\0'),
      'dtype code 5',
    ),
  ],
)
def test_an_unsupported_or_truncated_file_is_refused(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    load_whisper(write(tmp_path, content))


@pytest.fixture(scope='module')
def valid_file(variables):
  return model_bin(variables)


@given(data=st.data())
@settings(max_examples=30)
def test_a_damaged_model_bin_loads_or_names_the_file(
  valid_file, tmp_path_factory, data
):
  """Damages the header or truncates the file; changed weights cannot be detected."""
  folder = tmp_path_factory.mktemp('damaged')
  content = bytearray(valid_file)
  if data.draw(st.booleans()):
    content = content[: data.draw(st.integers(0, len(content) - 5))]
  else:
    for _ in range(data.draw(st.integers(1, 4))):
      position = data.draw(st.integers(0, 700) | st.integers(0, len(content) - 1))
      content[position] = data.draw(st.integers(0, 255))
  try:
    load_whisper(write(folder, bytes(content)))
  except ValueError as error:
    assert str(folder) in str(error)
  finally:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'model_type': 'llama'}, "model_type .*'llama'.*'whisper'"),
    ({'activation_function': 'relu'}, "activation_function .*'relu'.*'gelu'"),
    ({'d_model': None}, 'd_model'),
    ({'encoder_layers': 2}, r'layers\.2\.'),
    ({'encoder_layers': 4}, r'layers\.3\.'),
    ({'encoder_ffn_dim': 41}, r'\b40\b.*\b41\b'),
  ],
)
def test_a_folder_of_another_model_is_refused(reference, tmp_path, change, message):
  reference.save_pretrained(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message) as error:
    load_whisper(tmp_path)
  assert str(tmp_path) in str(error.value)


def test_an_empty_folder_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'config\.json.*model\.bin'):
    load_whisper(tmp_path)
