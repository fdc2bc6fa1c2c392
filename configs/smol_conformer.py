# SPDX-License-Identifier: Apache-2.0
"""The Conformer of smol_ctc -> CTC adapter -> SmolLM2-135M-Instruct.

  configs/smol_ctc.sh           # from scratch, including encoder and data
  python -m acl_jax.train --config=configs/smol_conformer.py --workdir=runs/smol_on_ctc

The encoder is frozen; its 80 ms frames are too few for letters. Trained for the 1,500
steps of the CTC stage, 12 minutes on two CPU cores, without a response stage. Results
on 300 unseen sentences: nats per response token, the share of the gap between shuffled
audio and text that is closed, and word error rates:

                              training voices     unseen voice (flite:rms)
  text                        0.890     100 %        0.890     100 %
  audio                       0.930      95 %        1.183      66 %
  cascade_ctc                 0.932      95 %        1.191      65 %
  cascade (Whisper base)      1.046      82 %        not measured
  shuffled_audio              1.773       0 %        1.753       0 %
  word errors                   4.6 %                 27 %
  word errors, Whisper base     9.9 %                not measured

It beats its cascade only on its training voices and its 500 words.
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults


def get_config() -> ConfigDict:
  """Return the experiment."""
  c = defaults.train_config()
  c.template = 'chatml'
  c.encoder = dict(
    kind='conformer',
    path='runs/smol_ctc/encoder',
    trains='none',
    lr_scale=0.1,
    sizes=None,
  )
  c.adapter = dict(
    kind='ctc',
    stack=1,  # 80 ms, too few for letters
    letter_hidden_size=0,
    letter_layers=0,
    hidden_size=512,
    num_layers=2,
    kernel_size=9,
    dropout=0.05,
    spelling_size=128,
  )

  c.data.train = (('runs/smol_ctc/prepared', 1.0),)
  c.data.targets = 'runs/smol_ctc/targets'
  c.data.buckets = (16, 24, 32, 40, 56, 100)  # 80 ms
  c.augmentation = defaults.augmentation(
    speed=0.05, noise_share=0.25, noise_snr=(10.0, 40.0), telephone_share=0.1
  )
  c.targets.top_k = 16

  c.ctc = defaults.ctc_stage(
    steps=1_500,
    frames_per_batch=1_200,  # 96 s
    peak_lr=1.5e-3,
    warmup_steps=200,
    save_every=250,
  )
  return c.lock()
