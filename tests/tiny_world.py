# SPDX-License-Identifier: Apache-2.0
"""Tiny inputs of `acl_jax.train`: models, a corpus, targets and a config."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

TEXTS = ('yes', 'no', 'go on', 'stop now', 'left', 'right', 'oh no', 'yes yes', 'on')
MAX_NEW_TOKENS, TOP_K = 6, 3
CONFIG = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict({config!r}).lock()
"""


@pytest.fixture(scope='session')
def tiny_world(tmp_path_factory) -> Path:
  """A folder with llama/ whisper/ prepared/ targets/ and a config.py of them.

  The models have published formats, the other files are from our programs. Tests must
  not write to the folder.
  """
  folder = tmp_path_factory.mktemp('tiny_world')
  size = write_tokenizer(folder / 'llama')
  write_models(folder, size)
  ids = write_corpus(folder)
  write_targets(folder / 'targets', ids, size)
  (folder / 'config.py').write_text(CONFIG.format(config=config_of(folder)))
  return folder


def load_config(tiny_world, **changes):
  """Return the parsed config with changes such as `{'ctc.steps': 3}`."""
  from acl_jax.config.experiment import parse_train

  return parse_train(with_changes(config_of(tiny_world), changes))


def change(config, **changes):
  """Return a parsed config with changes such as `{'llama.dtype': 'int8'}`."""
  from acl_jax.config.experiment import parse_experiment, to_json

  return parse_experiment(with_changes(to_json(config), changes))


def with_changes(values: dict, changes: dict) -> dict:
  values = copy.deepcopy(values)
  for path, value in changes.items():
    *sections, key = path.split('.')
    section = values
    for name in sections:
      section = section[name]
    assert key in section, path
    section[key] = value
  return values


def config_of(folder: Path) -> dict:
  stage = dict(
    frames_per_batch=80,
    peak_lr=1e-2,
    warmup_steps=2,
    weight_decay=0.01,
    clip_norm=1.0,
    log_every=1,
    save_every=3,
    skip_spikes=False,
  )
  response = dict(
    microbatches=1,
    kl_weight=0.5,
    kl_temperature=1.0,
    ctc_weight=0.3,
    transcription_weight=0.4,
    remat='full',
    on_policy=None,
  )
  return dict(
    seed=0,
    init_from='',
    shipped_adapter='none',
    mesh=dict(data=-1, fsdp=1, tensor=1),
    llama=dict(
      path=str(folder / 'llama'),
      dtype='float32',
      sharding='fsdp',
      sizes=None,
      lora=None,
    ),
    template='chatml',
    encoder=dict(
      kind='whisper',
      path=str(folder / 'whisper'),
      trains='none',
      lr_scale=0.5,
      layer_lr_decay=1.0,
      lora=None,
      sizes=None,
    ),
    adapter=dict(
      kind='ctc',
      stack=2,
      letter_hidden_size=14,
      letter_layers=2,
      hidden_size=16,
      num_layers=2,
      kernel_size=3,
      spelling_size=6,
      dropout=0.1,
      lora=None,
    ),
    data=dict(
      train=str(folder / 'prepared'),
      targets=str(folder / 'targets'),
      leave_out=('empty',),
      copies=1,
      row_frames=None,
      row_tokens=None,
      buckets=(40,),  # one shape: one compilation
    ),
    augmentation=dict(
      speed=0.1, noise_share=0.5, noise_snr=(5.0, 30.0), telephone_share=0.25
    ),
    masking=None,
    targets=dict(
      max_prompt_tokens=200,
      max_new_tokens=MAX_NEW_TOKENS,
      batch_size=2,
      top_k=TOP_K,
      sampling=dict(temperature=0.0, top_k=0, top_p=1.0),
      repeats=0,
      refusals=(),
      instructions=(('{}', 1.0),),
      cache_dtype='',
    ),
    ctc=dict(steps=10, sampled_classes=10, **stage),
    transcription=None,
    response=dict(steps=8, **stage, **response),
  )


def write_tokenizer(folder: Path) -> int:
  """Write a `tokenizer.json` like SmolLM2's; returns the size of its vocabulary."""
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  controls = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=controls,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  text = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face user'
  tokenizer.train_from_iterator([text, *TEXTS] * 3, trainer)
  folder.mkdir()
  tokenizer.save(str(folder / 'tokenizer.json'))
  names = {'bos_token': '<|im_start|>', 'eos_token': '<|im_end|>'}
  (folder / 'tokenizer_config.json').write_text(json.dumps(names))
  return tokenizer.get_vocab_size()


def write_models(folder: Path, vocab_size: int) -> None:
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperModel

  torch.manual_seed(0)
  llama = LlamaConfig(
    vocab_size=vocab_size,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=True,
    initializer_range=0.2,
  )
  LlamaForCausalLM(llama).save_pretrained(folder / 'llama')
  whisper = WhisperConfig(
    num_mel_bins=80,
    d_model=12,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=14,
    max_source_positions=50,  # 1 s
    init_std=0.2,
    vocab_size=53,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=3,
  )
  WhisperModel(whisper).save_pretrained(folder / 'whisper')


def write_corpus(folder: Path) -> list[str]:
  """Write and prepare a tone of 0.3 to 0.7 s for each text; returns the ids."""
  from data_pipeline.prepare import prepare

  lines = []
  for i, text in enumerate(TEXTS):
    time = np.arange(4_800 + 800 * i) / 16_000
    (folder / 'corpus').mkdir(exist_ok=True)
    tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * i) * time)
    soundfile.write(folder / f'corpus/{i}.flac', tone, 16_000)
    lines.append({'audio_filepath': f'{i}.flac', 'text': text, 'id': f'u{i}'})
  manifest = folder / 'corpus/manifest.jsonl'
  manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  prepare('manifest', manifest, folder / 'prepared')
  return [line['id'] for line in lines]


def write_targets(folder: Path, ids: list[str], vocab_size: int) -> None:
  """Write targets in the format of `decode_targets`; the last utterance has none."""
  from acl_jax import build
  from acl_jax.config.experiment import parse_train
  from acl_jax.targets import provenance, store
  from acl_jax.weights.fingerprint import describe

  rng = np.random.default_rng(0)
  folder.mkdir()
  targets = []
  for i, id in enumerate(ids[:-1]):
    u = 2 + i % (MAX_NEW_TOKENS - 1)
    arrays = {
      'response': rng.integers(3, vocab_size, u).astype(np.int32),
      'log_probs': np.full(u, -1.0, np.float32),
      'top_ids': rng.permuted(np.tile(np.arange(3, vocab_size), (u, 1)), axis=1)[
        :, :TOP_K
      ].astype(np.int32),
      'top_log_probs': np.tile(np.log([0.5, 0.2, 0.1]), (u, 1)).astype(np.float16),
    }
    header = dict(
      instruction='{}',
      id=id,
      transcript=TEXTS[i],
      finish_reason='stop',
      flag='',
      prompt_fingerprint='',
    )
    targets.append(store.Target(header, arrays, instruction=0))
  store.write_targets(folder / 'targets-00000-of-00001.array_record', targets, [])
  decoding = dict(
    max_new_tokens=MAX_NEW_TOKENS, top_k=TOP_K, instructions=[['{}', 1.0]]
  )
  config = parse_train(config_of(folder.parent))
  text = build.load_text_frontend(config.llama, config.template)
  expected = {
    'schema_version': provenance.SCHEMA_VERSION,
    'decoding': decoding,
    'llm': describe(build.load_frozen_llama(config.llama)),
    'template': provenance.describe_template(text),
    'shards': 1,
  }
  provenance.claim_folder(folder, expected)
