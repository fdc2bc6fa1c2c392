# SPDX-License-Identifier: Apache-2.0
"""The paper's encoder, pretrained with CTC on Multilingual LibriSpeech, English.

  python -m acl_jax.pretrain --config=configs/ctc_mls.py --workdir=runs/ctc_mls

The block is the paper's: width 512, feed-forward 2,048, 8 heads, kernel 11, behind
subsampling to 80 ms. How many blocks it has could not be verified; 18 is our choice.
44,500 hours, 1,500 unigram pieces of the normalised transcripts.
Hardware: meant for a slice of 16 TPU v5e or more. Not run: neither hours nor word error
rates are known.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The experiment."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''  # a folder of a Parakeet CTC model to start from
  c.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1: the rest of the devices
  c.vocabulary_size = 1_500  # sentencepieces
  c.max_piece_length = 16  # characters
  c.encoder = dict(
    kind='conformer',
    sizes=dict(
      features='kaldi',
      hidden_size=512,
      num_hidden_layers=18,
      num_attention_heads=8,
      intermediate_size=2_048,
      conv_kernel_size=11,
      num_mel_bins=80,
      dropout=0.1,
    ),
  )

  c.data = dict(
    train='data/mls/prepared',
    dev='data/mls/prepared-dev',
    copies=1,
    row_frames=512,  # encoder frames, 80 ms: recordings of 41 s in all
  )
  c.augmentation = dict(
    speed=0.1, noise_share=0.0, noise_snr=(5.0, 30.0), telephone_share=0.0
  )
  c.masking = dict(mel_masks=2, mel_width=27, time_masks=10, time_share=0.05)

  c.ctc = dict(
    steps=300_000,
    frames_per_batch=80_000,  # 1.8 hours
    average_decay=0.9999,
    remat='dots',
    letters=dict(layer=9, per_frame=0, weight=0.0),  # none
    peak_lr=1e-3,
    warmup_steps=20_000,
    weight_decay=1e-3,
    clip_norm=1.0,
    log_every=20,
    save_every=1_000,
  )
  return c.lock()
