# SPDX-License-Identifier: Apache-2.0
"""The experiment of `make demo`: every stage, minutes on two CPU cores.

  make demo

What it trains has heard a quarter of an hour of speech and understands nothing; what it
evaluates is the shipped adapter of `configs/smol.py`.
"""

from ml_collections import ConfigDict

TARGETS = dict(
  max_prompt_tokens=128,
  max_new_tokens=24,
  batch_size=32,
  sampling=dict(temperature=0.0, top_k=0, top_p=1.0),  # greedy
  repeats=6,  # an n-gram so often in a row ends a response
  top_k=0,
  refusals=("I'm sorry", 'I cannot', "I can't", 'As an AI'),
  instructions=(('{}', 1.0),),  # the plain prompt alone
  cache_dtype='',  # of keys and values: the LLM's, or int8
)

RESPONSE = dict(
  steps=8,
  frames_per_batch=1_500,  # 30 s
  peak_lr=3e-4,
  warmup_steps=2,
  weight_decay=0.0,
  clip_norm=1.0,
  kl_weight=0.0,
  kl_temperature=1.0,
  ctc_weight=0.5,
  remat=None,
  log_every=1,
  save_every=4,
)

LLAMA = dict(path='asset:smollm2-135m-instruct', dtype='float32', sharding='replicated')


def get_config() -> ConfigDict:
  """The experiment."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''
  c.shipped_adapter = 'smol'
  c.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1: the rest of the devices

  c.llama = LLAMA
  c.template = 'chatml'
  c.encoder = dict(
    kind='whisper', path='asset:whisper-base', trains=False, lr_scale=0.1
  )
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

  c.data = dict(
    train='runs/demo/prepared',
    targets='runs/demo/targets',
    leave_out=('empty', 'repetition', 'refusal'),  # responses not to imitate
    copies=1,
    row_frames=None,  # one recording a row, in buckets
    buckets=(64, 128, 256, 512, 1500),  # encoder frames, 20 ms
  )
  c.augmentation = None
  c.targets = TARGETS

  c.ctc = dict(
    steps=120,
    frames_per_batch=2_048,  # 41 s
    sampled_classes=1_024,
    peak_lr=2e-3,
    warmup_steps=10,
    weight_decay=0.01,
    clip_norm=1.0,
    log_every=10,
    save_every=40,
  )
  c.response = RESPONSE
  return c.lock()
