# SPDX-License-Identifier: Apache-2.0
"""A small Conformer, trained from scratch with CTC.

  configs/smol_ctc.sh           # from scratch, including the data and smol_conformer
  python -m acl_jax.pretrain --config=configs/smol_ctc.py --workdir=runs/smol_ctc

4.1 M parameters, 10.1 hours of speech: sentences of the 500 most frequent words of
WordNet's examples and lists of these words in random order, synthesised with four TTS
voices, and the shipped human recordings. It took 75 minutes on two CPU cores that were
shared with other jobs (0.22 s a step without them). Word error rate in % on 300 unseen
sentences with these voices:

  step       1,000  2,000  3,000  4,000  6,000  8,000  10,000  12,000  16,000
  error         55     30     20     14    9.3    8.4     6.4     5.8     5.2

Finally it is 2.0 on the 162 sentences that are questions of a few patterns and 9.9 on
the others. The first 12,900 steps had the learning rate schedule of 24,000 steps.
smol_conformer.py has results on an unseen voice.
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults


def get_config() -> ConfigDict:
  """Return the experiment."""
  c = defaults.pretrain_config()
  c.vocabulary_size = 400
  # Short pieces force an alignment with the audio. With whole words, which are few per
  # frame, CTC emitted the first and the last at the edges, far from where they occur.
  c.max_piece_length = 3
  c.encoder = dict(
    kind='conformer',
    sizes=dict(
      features='parakeet',
      hidden_size=144,
      num_hidden_layers=8,
      num_attention_heads=4,
      intermediate_size=576,
      conv_kernel_size=9,
      num_mel_bins=80,
      subsampling_conv_channels=32,
      dropout=0.0,
    ),
  )

  c.data.train = (('runs/smol_ctc/prepared', 1.0),)
  c.data.dev = 'runs/smol_ctc/prepared-dev'
  c.data.buckets = (18, 22, 26, 32, 44, 100)  # 80 ms
  c.augmentation = defaults.augmentation(
    speed=0.05, noise_share=0.15, noise_snr=(10.0, 40.0), telephone_share=0.05
  )

  c.ctc.update(
    steps=16_000,
    frames_per_batch=300,  # 24 s
    average_decay=0.995,
    warmup_steps=300,
  )
  c.ctc.letters = dict(layer=4, per_frame=3, weight=1.0)  # every 27 ms
  return c.lock()
