# SPDX-License-Identifier: Apache-2.0
"""Configs of toy size, whose steps compile in seconds."""

from acl_jax.config import defaults
from acl_jax.config.experiment import (
  Experiment,
  PretrainConfig,
  TrainConfig,
  parse_pretrain,
  parse_train,
)

ENCODER_SIZES = dict(
  features='kaldi',
  hidden_size=8,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=12,
  conv_kernel_size=3,
  num_mel_bins=16,
  subsampling_conv_channels=4,
  dropout=0.0,
)
STAGE = dict(
  steps=9,
  frames_per_batch=512,
  peak_lr=1e-3,
  warmup_steps=2,
  weight_decay=0.1,
  remat='dots',
  log_every=1,
  save_every=5,
)


def tiny_train_config() -> TrainConfig:
  """An LLM, an encoder that trains, packed rows; none of its files exists."""
  c = defaults.train_config()
  c.mesh = dict(data=1, fsdp=-1, tensor=2)
  c.llama.update(path='nowhere', sharding='fsdp')
  c.llama.sizes = dict(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    max_position_embeddings=512,
  )
  c.encoder = dict(
    kind='conformer', path='nowhere', trains='full', lr_scale=0.5, sizes=ENCODER_SIZES
  )
  c.adapter = dict(kind='stride', stack=3, hidden_size=None)
  c.data.update(train=(('nowhere', 1.0),), row_frames=64, row_tokens=128)
  c.targets.update(max_prompt_tokens=24, max_new_tokens=8, batch_size=8, repeats=3)
  c.response = defaults.response_stage(**STAGE)
  return parse_train(c)


def tiny_pretrain_config() -> PretrainConfig:
  """A Conformer with a letter loss, packed rows."""
  c = defaults.pretrain_config()
  c.mesh = dict(data=1, fsdp=-1, tensor=2)
  c.vocabulary_size = 30
  c.encoder = dict(kind='conformer', sizes=ENCODER_SIZES)
  c.data.update(train=(('nowhere', 1.0),), row_frames=64)
  c.ctc.update(average_decay=0.9, **STAGE)
  c.ctc.letters = dict(layer=2, per_frame=3, weight=0.5)
  return parse_pretrain(c)


def tiny_config(program: str = 'train') -> Experiment:
  """The config of a program."""
  return tiny_pretrain_config() if program == 'pretrain' else tiny_train_config()
