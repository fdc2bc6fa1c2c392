# SPDX-License-Identifier: Apache-2.0
"""The paper's encoder, pretrained with CTC on the English part of MLS.

  python -m acl_jax.pretrain --config=configs/ctc_mls.py --workdir=runs/ctc_mls

The blocks are the paper's: width 512, feed-forward 2,048, 8 heads, kernel 11, after
subsampling to 80 ms. Their number could not be verified; 18 is our choice.
Data: Multilingual LibriSpeech, English: 44,500 hours, 1,500 unigram pieces of the
normalised transcripts.
Hardware: intended for a slice of at least 16 TPU v5e. Not run yet: hours and word error
rates are unknown.
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults


def get_config() -> ConfigDict:
  """Return the experiment."""
  c = defaults.pretrain_config()
  c.encoder = dict(kind='conformer', sizes=defaults.PAPER_CONFORMER)

  c.data.train = (('data/mls/prepared', 1.0),)
  c.data.dev = 'data/mls/prepared-dev'
  c.data.row_frames = 512  # 41 s at 80 ms
  c.augmentation = defaults.augmentation(speed=0.1)
  c.masking = dict(mel_masks=2, mel_width=27, time_masks=10, time_share=0.05)

  c.ctc.update(
    steps=300_000,
    frames_per_batch=80_000,  # 1.8 hours
    average_decay=0.9999,
    warmup_steps=20_000,
  )
  return c.lock()
