# SPDX-License-Identifier: Apache-2.0
"""Whisper's decoder against Transformers, before and after it is re-headed."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers
from transformers import WhisperConfig, WhisperForConditionalGeneration

from acl_jax import assets
from acl_jax.text.whisper_pieces import CommonTokens, WhisperPieces
from acl_jax.weights.whisper_decoder import Spelling, rehead_decoder
from tests.weights.whisper_test import model_bin

CONTROLS = ('<|endoftext|>', '<|startoftranscript|>', '<|en|>')
D, FRAMES, HEADS, LAYERS = 24, 9, 4, 3


def normal(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def write_pieces(folder):
  """Write the `tokenizer.json` of a tiny Whisper; returns its pieces in order."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = [('o', 'n'), ('Ġ', 'y'), ('e', 's'), ('Ġy', 'es')]
  pieces = [*alphabet, *map(''.join, merges)]
  vocabulary = {piece: i for i, piece in enumerate(pieces)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.add_special_tokens(list(CONTROLS))
  folder.mkdir(exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  return [piece.replace('Ġ', ' ') for piece in pieces]


@pytest.fixture(scope='module')
def reference():
  torch.manual_seed(0)
  config = WhisperConfig(
    vocab_size=256 + 4 + len(CONTROLS),
    num_mel_bins=10,
    d_model=D,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=8,
    max_source_positions=15,
    decoder_layers=LAYERS,
    decoder_attention_heads=HEADS,
    decoder_ffn_dim=40,
    max_target_positions=21,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=3,
    init_std=0.2,
  )
  model = WhisperForConditionalGeneration(config).eval()
  for name, weight in model.named_parameters():
    if name.endswith(('bias', 'layer_norm.weight')):  # zeros and ones initially
      torch.nn.init.normal_(weight, 0.5, 0.3)
  return model


@pytest.fixture(scope='module')
def folder(reference, tmp_path_factory):
  folder = tmp_path_factory.mktemp('whisper')
  reference.save_pretrained(folder)
  write_pieces(folder)
  return folder


def rehead(folder, texts, encoder_size=D):
  pieces = WhisperPieces(folder)
  spelling = Spelling(
    pieces.start_ids, pieces.end_id, [pieces.encode(text)[0] for text in texts]
  )
  return rehead_decoder(folder, 2, encoder_size, 6, [*range(len(texts))], spelling)


def test_scores_are_those_of_transformers(reference, folder):
  pieces = WhisperPieces(folder)
  texts = [' yes', 'on', 'q', '!']
  rows = [pieces.encode(text)[0] for text in texts]
  adapter = rehead(folder, texts)
  frames = normal(2, FRAMES, D)
  classes = np.asarray([[1, 3, 2, 4], [4, 4, 1, 2]])
  ids = [[*pieces.start_ids, *(rows[c - 1] for c in row)] for row in classes]
  with torch.no_grad():
    hidden = reference.model.decoder(
      torch.tensor(ids), encoder_hidden_states=torch.from_numpy(np.array(frames))
    ).last_hidden_state
    logits = reference.proj_out(hidden).numpy()[:, len(pieces.start_ids) - 1 :]
  mask = jnp.ones((2, FRAMES), bool)
  actual = adapter.scores(frames, mask, jnp.asarray(classes), jnp.arange(4))
  expected = logits[..., [pieces.end_id, *rows]]
  np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_rows_are_those_of_the_pieces(reference, folder):
  pieces = WhisperPieces(folder)
  adapter = rehead(folder, [' yes', 'q'])
  rows = reference.model.decoder.embed_tokens.weight.detach().numpy()
  ids = [pieces.end_id, *pieces.encode(' yes'), *pieces.encode('q')]
  np.testing.assert_array_equal(adapter.embed_tokens[...], rows[ids])


def test_common_tokens_write_what_both_know(folder):
  pieces = WhisperPieces(folder)
  texts = {3: ' yes', 5: ' yeson', 7: 'on', 9: 'o', 11: 'n', 13: 'y', 15: 'é'}
  common = CommonTokens(pieces, texts)
  assert list(common.piece_ids) == [3, 7, 9, 11, 13]
  assert [common.piece_ids[3]] == pieces.encode(' yes')
  assert common.encode(' yes') == [3]
  assert common.encode('on') == [7]
  without = CommonTokens(pieces, {9: 'o', 11: 'n'})
  assert without.encode('on') == [9, 11]
  assert without.encode('noéq') == [11, 9]


def test_a_merge_that_the_file_lacks_is_made(tmp_path):
  pieces = write_pieces(tmp_path)
  path = tmp_path / 'tokenizer.json'
  fields = json.loads(path.read_text())
  merges = fields['model']['merges']
  fields['model']['merges'] = [m for m in merges if ''.join(m) != 'Ġy']
  path.write_text(json.dumps(fields))
  damaged = tokenizers.Tokenizer.from_file(str(path))
  assert len(damaged.encode(' yes').ids) > 1
  whisper = WhisperPieces(tmp_path)
  assert whisper.encode(' yes') == [pieces.index(' yes')]
  assert whisper.write('on yes') == ['on', ' yes']


@pytest.mark.full
def test_every_piece_of_the_embedded_whisper_is_written():
  folder = assets.resolve('asset:whisper-base')
  pieces = WhisperPieces(folder)
  vocabulary = json.loads((folder / 'tokenizer.json').read_text())['model']['vocab']
  texts = {k.replace('Ġ', ' '): v for k, v in vocabulary.items()}
  words = {k: v for k, v in texts.items() if k.isascii() and k and '<|' not in k}
  assert len(words) > 30_000
  assert {k: v for k, v in words.items() if pieces.encode(k) != [v]} == {}


def ctranslate2_names(layer):
  """Map a layer's modules in CTranslate2 to those of Hugging Face that they hold."""
  source, target = f'decoder/layer_{layer}', f'model.decoder.layers.{layer}'
  return {
    f'{source}/self_attention/layer_norm': [f'{target}.self_attn_layer_norm'],
    f'{source}/self_attention/linear_0': [
      f'{target}.self_attn.{letter}_proj' for letter in 'qkv'
    ],
    f'{source}/self_attention/linear_1': [f'{target}.self_attn.out_proj'],
    f'{source}/attention/layer_norm': [f'{target}.encoder_attn_layer_norm'],
    f'{source}/attention/linear_0': [f'{target}.encoder_attn.q_proj'],
    f'{source}/attention/linear_1': [
      f'{target}.encoder_attn.{letter}_proj' for letter in 'kv'
    ],
    f'{source}/attention/linear_2': [f'{target}.encoder_attn.out_proj'],
    f'{source}/ffn/layer_norm': [f'{target}.final_layer_norm'],
    f'{source}/ffn/linear_0': [f'{target}.fc1'],
    f'{source}/ffn/linear_1': [f'{target}.fc2'],
  }


def test_both_formats_give_the_same_adapter(reference, folder, tmp_path):
  state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
  no_bias = np.zeros(D, np.float32)
  modules = {'decoder/layer_norm': ['model.decoder.layer_norm']}
  for layer in range(LAYERS):
    modules |= ctranslate2_names(layer)
  variables = {
    'decoder/num_heads': np.int16(HEADS),
    'decoder/activation': np.int8(1),
    'decoder/embeddings/weight': state['model.decoder.embed_tokens.weight'],
    'decoder/position_encodings/encodings': state[
      'model.decoder.embed_positions.weight'
    ],
  }
  for source, targets in modules.items():
    kinds = ('gamma', 'beta') if 'layer_norm' in source else ('weight', 'bias')
    for kind, name in zip(kinds, ('weight', 'bias'), strict=True):
      arrays = [state.get(f'{target}.{name}', no_bias) for target in targets]
      variables[f'{source}/{kind}'] = np.concatenate(arrays)
  (tmp_path / 'model.bin').write_bytes(model_bin(variables))
  write_pieces(tmp_path)
  texts = [' yes', 'on']
  expected, actual = rehead(folder, texts), rehead(tmp_path, texts)
  assert expected.config == actual.config
  for name in ('embed_start', 'embed_tokens'):
    np.testing.assert_array_equal(getattr(expected, name), getattr(actual, name))
  frames = normal(1, FRAMES, D)
  arguments = frames, jnp.ones((1, FRAMES), bool), jnp.asarray([[2, 1]]), jnp.arange(2)
  np.testing.assert_array_equal(expected.scores(*arguments), actual.scores(*arguments))


def test_another_width_of_frames_is_refused(folder):
  with pytest.raises(ValueError, match='frames of width 24; those of the encoder.* 12'):
    rehead(folder, ['on'], encoder_size=12)


def test_a_whisper_without_its_tokenizer_is_refused(reference, tmp_path):
  reference.save_pretrained(tmp_path)
  with pytest.raises(
    FileNotFoundError, match=r'tokenizer\.json: the decoder of Whisper'
  ):
    rehead(tmp_path, ['on'])


@pytest.mark.parametrize(
  'content, message', [('{', 'not a tokenizer'), (None, 'has no <.startoftranscript')]
)
def test_a_bad_tokenizer_is_named(tmp_path, content, message):
  path = tmp_path / 'tokenizer.json'
  if content is None:
    tokenizers.Tokenizer(models.BPE()).save(str(path))
  else:
    path.write_text(content)
  with pytest.raises(ValueError, match=message):
    WhisperPieces(tmp_path)
