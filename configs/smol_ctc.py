# SPDX-License-Identifier: Apache-2.0
"""A small Conformer, trained from nothing to recognise speech with CTC.

  configs/smol_ctc.sh           # from nothing, the data and smol_conformer included
  python -m acl_jax.pretrain --config=configs/smol_ctc.py --workdir=runs/smol_ctc

4.1 M parameters, 10.1 hours of speech: sentences of the 500 commonest words of
WordNet's examples, and lists of these words in no order, read by four TTS voices, and
the shipped human recordings. Run in 75 minutes on two CPU cores beside other work
(0.22 s a step without it). Word error rate on 300 unseen sentences by these voices, %:

  step       1,000  2,000  3,000  4,000  6,000  8,000  10,000  12,000  16,000
  error         55     30     20     14    9.3    8.4     6.4     5.8     5.2

At the end it is 2.0 of the 162 that are questions of a few patterns, 9.9 of the others.
The first 12,900 steps had the learning rate of a run of 24,000. smol_conformer.py says
how it does on a voice that it never heard.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The experiment."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''  # a folder of a Parakeet CTC model to start from
  c.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1: the rest of the devices
  c.vocabulary_size = 400  # sentencepieces
  # Short ones have to stand where they are spoken. Of whole words, few for the frames,
  # CTC wrote the first and the last at the edges, far from their sounds.
  c.max_piece_length = 3  # characters
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

  c.data = dict(
    train='runs/smol_ctc/prepared',
    dev='runs/smol_ctc/prepared-dev',
    copies=1,
    row_frames=None,  # one recording a row, in buckets
    buckets=(18, 22, 26, 32, 44, 100),  # encoder frames, 80 ms
  )
  c.augmentation = dict(
    speed=0.05, noise_share=0.15, noise_snr=(10.0, 40.0), telephone_share=0.05
  )
  c.masking = None  # SpecAugment, for a run long enough to over-fit

  c.ctc = dict(
    steps=16_000,
    frames_per_batch=300,  # 24 s
    average_decay=0.995,
    remat='dots',
    letters=dict(layer=4, per_frame=3, weight=1.0),  # read every 27 ms
    peak_lr=1e-3,
    warmup_steps=300,
    weight_decay=1e-3,
    clip_norm=1.0,
    log_every=20,
    save_every=1_000,
  )
  return c.lock()
