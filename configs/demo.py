# SPDX-License-Identifier: Apache-2.0
"""The experiment of `make demo`: every stage, in minutes on two CPU cores.

  make demo

The adapter that it trains has seen a quarter of an hour of speech, which is too little
to understand any. The demo evaluates the shipped adapter of `configs/smol.py`.
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults


def get_config() -> ConfigDict:
  """Return the experiment."""
  c = defaults.train_config()
  c.template = 'chatml'
  c.adapter = dict(
    kind='ctc',
    stack=4,  # 80 ms
    letter_hidden_size=256,
    letter_layers=1,
    hidden_size=384,
    num_layers=1,
    kernel_size=9,
    spelling_size=64,
    dropout=0.1,
  )

  c.data.train = (('runs/demo/prepared', 1.0),)
  c.data.targets = 'runs/demo/targets'
  c.data.buckets = (64, 128, 256, 512, 1500)  # 20 ms
  c.targets.max_new_tokens = 24

  c.ctc = defaults.ctc_stage(
    steps=120,
    frames_per_batch=2_048,  # 41 s
    sampled_classes=1_024,
    peak_lr=2e-3,
    warmup_steps=10,
    log_every=10,
    save_every=40,
  )
  c.response = defaults.response_stage(
    steps=8,
    frames_per_batch=1_500,  # 30 s
    peak_lr=3e-4,
    warmup_steps=2,
    ctc_weight=0.5,
    log_every=1,
    save_every=4,
  )
  return c.lock()
