# SPDX-License-Identifier: Apache-2.0
"""The shipped model: Whisper base -> attention adapter -> SmolLM2-135M-Instruct.

  configs/smol.sh                      # from scratch, including the data

FIGURES
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults

MATRICES = ('q_proj', 'k_proj', 'v_proj', 'out_proj', 'fc1', 'fc2')


def get_config() -> ConfigDict:
  """Return the experiment."""
  c = defaults.train_config()
  c.shipped_adapter = 'smol'
  c.encoder.trains = 'lora'
  c.encoder.lora = dict(rank=32, alpha=64.0, dropout=0.0, targets=MATRICES)
  c.encoder.lr_scale = 0.5
  c.adapter = dict(
    kind='attention',
    path='asset:whisper-base',
    stack=6,  # at most 8 tokens a second
    sizes=None,
    lora=dict(rank=64, alpha=64.0, dropout=0.0, targets=(*MATRICES, 'embed_tokens')),
  )

  c.data.train = (('data/prepared', 1.0),)
  c.data.targets = 'data/targets'
  c.data.buckets = (96, 144, 224, 384, 768)  # 20 ms
  c.augmentation = defaults.augmentation(
    speed=0.1,
    noise_share=0.25,
    babble_share=0.25,
    music_share=0.1,
    reverberation_share=0.2,
    telephone_share=0.05,
    line_share=0.08,
    mu_law_share=0.5,
    clipping_share=0.05,
  )
  c.masking = dict(mel_masks=1, mel_width=12, time_masks=1, time_share=0.04)
  c.targets.top_k = 16
  c.targets.instructions = (
    ('{}', 0.5),
    ('Repeat the following word for word: {}', 0.14),
    ('{}\n\nRepeat the text above word for word.', 0.1),
    ('Summarise this in one sentence: {}', 0.08),
    ('Continue this text: {}', 0.08),
    ('Translate this into French: {}', 0.05),
    ('{}\n\nWhat is this about? Answer with one word.', 0.05),
  )

  c.transcription = defaults.transcription_stage(
    steps=320,
    frames_per_batch=3_072,  # 61 s
    peak_lr=4e-4,
    warmup_steps=25,
    sampled_classes=12_288,
    log_every=10,
    save_every=50,
  )
  c.response = defaults.response_stage(
    steps=60,
    frames_per_batch=1_536,  # 31 s
    peak_lr=1e-4,
    warmup_steps=10,
    kl_weight=1.0,
    transcription_weight=0.5,
    log_every=5,
    save_every=20,
  )
  return c.lock()
