# SPDX-License-Identifier: Apache-2.0
"""All that `acl_jax.train` reads, of toy size: models, a corpus, targets, a config."""

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
  """A folder with llama/ whisper/ prepared/ targets/ and config.py, which names them.

  Everything is as published or as our programs write it; it is not to be written to.
  """
  folder = tmp_path_factory.mktemp('tiny_world')
  size = write_tokenizer(folder / 'llama')
  write_models(folder, size)
  ids = write_corpus(folder)
  write_targets(folder / 'targets', ids, size)
  (folder / 'config.py').write_text(CONFIG.format(config=config_of(folder)))
  return folder


def load_config(tiny_world, **changes):
  """The config, with changes such as `{'ctc.steps': 3}`, unlocked."""
  from ml_collections import ConfigDict

  config = ConfigDict(config_of(tiny_world))
  config.update_from_flattened_dict(changes)
  return config


def config_of(folder: Path) -> dict:
  stage = dict(
    frames_per_batch=80,
    peak_lr=1e-2,
    warmup_steps=2,
    weight_decay=0.01,
    clip_norm=1.0,
    log_every=1,
    save_every=3,
  )
  response = dict(kl_weight=0.5, kl_temperature=1.0, ctc_weight=0.3, remat='full')
  return dict(
    seed=0,
    init_from='',
    shipped_adapter='none',
    mesh=dict(data=-1, fsdp=1, tensor=1),
    llama=dict(path=str(folder / 'llama'), dtype='float32', sharding='fsdp'),
    template='chatml',
    encoder=dict(
      kind='whisper', path=str(folder / 'whisper'), trains=False, lr_scale=0.5
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
    ),
    data=dict(
      train=str(folder / 'prepared'),
      targets=str(folder / 'targets'),
      leave_out=('empty',),
      copies=1,
      row_frames=None,
      buckets=(40,),  # one shape, one compilation
    ),
    augmentation=dict(
      speed=0.1, noise_share=0.5, noise_snr=(5.0, 30.0), telephone_share=0.25
    ),
    targets=dict(
      max_prompt_tokens=200, max_new_tokens=MAX_NEW_TOKENS, batch_size=2, top_k=TOP_K
    ),
    ctc=dict(steps=10, sampled_classes=10, **stage),
    response=dict(steps=8, **stage, **response),
  )


def write_tokenizer(folder: Path) -> int:
  """A `tokenizer.json` of SmolLM2's kind; returns how many tokens it has."""
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
  """A tone for each text, 0.3 to 0.7 s long, prepared by the program's own function."""
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
  """Responses such as `decode_targets` writes; the last recording has none."""
  from ml_collections import ConfigDict

  from acl_jax import build
  from acl_jax.targets import provenance, store
  from acl_jax.weights.fingerprint import describe

  rng = np.random.default_rng(0)
  folder.mkdir()
  made = []
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
    made.append(store.Target(header, arrays, instruction=0))
  store.write_targets(folder / 'targets-00000-of-00001.array_record', made, [])
  decoding = dict(
    max_new_tokens=MAX_NEW_TOKENS, top_k=TOP_K, instructions=[['{}', 1.0]]
  )
  config = ConfigDict(config_of(folder.parent))
  made_by = {
    'schema_version': provenance.SCHEMA_VERSION,
    'decoding': decoding,
    'llm': describe(build.load_frozen_llama(config)),
    'template': provenance.describe_template(build.load_text_frontend(config)),
    'shards': 1,
  }
  provenance.claim_folder(folder, made_by)
