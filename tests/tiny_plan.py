# SPDX-License-Identifier: Apache-2.0
"""A config of everything, too small to wait for its compilation."""

from ml_collections import ConfigDict


def tiny_config() -> ConfigDict:
  """An LLM, an encoder that trains, packed rows; no file of it exists."""
  c = ConfigDict()
  c.seed = 0
  c.mesh = dict(data=1, fsdp=-1, tensor=2)
  c.vocabulary_size, c.max_piece_length = 30, 16
  c.llama = dict(
    path='nowhere',
    dtype='float32',
    sharding='fsdp',
    sizes=dict(
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
    ),
  )
  c.encoder = dict(
    kind='conformer',
    path='nowhere',
    trains=True,
    lr_scale=0.5,
    sizes=dict(
      features='kaldi',
      hidden_size=8,
      num_hidden_layers=2,
      num_attention_heads=2,
      intermediate_size=12,
      conv_kernel_size=3,
      num_mel_bins=16,
      subsampling_conv_channels=4,
      dropout=0.0,
    ),
  )
  c.adapter = dict(kind='stride', stack=3, hidden_size=None)
  c.data = dict(copies=1, row_frames=64, row_tokens=128)
  c.augmentation = c.masking = None
  c.targets = dict(
    max_prompt_tokens=24,
    max_new_tokens=8,
    batch_size=8,
    sampling=dict(temperature=0.0, top_k=0, top_p=1.0),
    repeats=3,
    top_k=0,
  )
  stage = dict(peak_lr=1e-3, warmup_steps=2, weight_decay=0.1, clip_norm=1.0)
  stage |= dict(steps=9, log_every=1, save_every=5, frames_per_batch=512, remat='dots')
  c.ctc = dict(stage, sampled_classes=1, average_decay=0.9)
  c.ctc.letters = dict(layer=2, per_frame=3, weight=0.5)
  c.response = dict(stage, kl_weight=0.0, kl_temperature=1.0, ctc_weight=0.0)
  return c.lock()
