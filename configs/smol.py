# SPDX-License-Identifier: Apache-2.0
"""Whisper base -> CTC adapter -> SmolLM2-135M-Instruct."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The experiment."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''  # a workdir or an adapter file to start from
  c.shipped_adapter = 'smol'

  c.llama = dict(path='asset:smollm2-135m-instruct', dtype='float32')
  c.template = 'chatml'
  c.encoder = dict(kind='whisper', path='asset:whisper-base')
  c.adapter = dict(
    kind='ctc',
    stack=4,  # 80 ms
    hidden_size=768,
    intermediate_size=768,
    num_layers=3,
    kernel_size=9,
    dropout=0.1,
  )

  c.data = dict(
    train='data/prepared',
    targets='data/targets',
    copies=1,
    buckets=(64, 96, 128, 192, 256, 384, 512, 1024),  # encoder frames, 20 ms
  )
  c.augmentation = dict(
    speed=0.1, noise_share=0.5, noise_snr=(5.0, 30.0), telephone_share=0.25
  )
  c.targets = dict(max_new_tokens=32, batch_size=32, temperature=0.0, top_k=16)

  c.ctc = dict(
    steps=2_500,
    frames_per_batch=3_072,  # 61 s
    sampled_classes=2_048,  # of some 17,000
    peak_lr=1.5e-3,
    warmup_steps=200,
    weight_decay=0.01,
    clip_norm=1.0,
    log_every=20,
    save_every=250,
  )
  c.response = dict(
    steps=60,
    frames_per_batch=2_048,  # 41 s
    peak_lr=2e-4,
    warmup_steps=10,
    weight_decay=0.0,
    clip_norm=1.0,
    kl_weight=1.0,
    ctc_weight=0.5,
    remat=None,
    log_every=5,
    save_every=20,
  )
  return c.lock()
