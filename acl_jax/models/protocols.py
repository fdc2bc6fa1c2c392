# SPDX-License-Identifier: Apache-2.0
"""What the rest of the code asks of an encoder and of an adapter.

A new one is a file with such a class, and a row in the tables of `acl_jax.build`.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.recognition import Recognition, Tokens


@runtime_checkable
class Encoder(Protocol):
  """Log-mel frames -> encoder frames.

  kind: its name in `config.encoder.kind`.
  recognises: whether it has a CTC head of its own; `greedy` returns None if not.
  config: its sizes: `num_mel_bins`, `output_size`, `subsampling`, `max_frames` (of the
  log-mel), `features` (whose log-mel spectrogram), `trailing_silence` (log-mel frames
  after an utterance).
  """

  @property
  def kind(self) -> str: ...

  @property
  def recognises(self) -> bool: ...

  @property
  def config(self) -> Any: ...

  @property
  def tower(self) -> Any:
    """The encoder without a CTC head."""
    ...

  def __call__(
    self, log_mel: Float[Array, 'b t m'], frame_mask: Bool[Array, 'b t'], /
  ) -> tuple[Float[Array, 'b u d'], Bool[Array, 'b u']]:
    """Encode one utterance a row; returns encoder frames and their mask."""
    ...

  def encode_rows(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None,
  ) -> Float[Array, 'b u d']:
    """Encode packed utterances as if each were alone.

    segment_ids: 1, 2, … for the utterances of a row; 0 is padding. Each starts at a
    multiple of `config.subsampling`. remat: what to keep of a layer for the backward
    pass, a key of `layers.REMAT`; None keeps everything.
    """
    ...

  def greedy(
    self, frames: Float[Array, 'b u d'], frame_mask: Bool[Array, 'b u'], /
  ) -> Int[Array, 'b u'] | None:
    """Return the class of every CTC segment where it starts, -1 elsewhere."""
    ...

  def recognise(
    self, frames: Float[Array, 'b u d'], frame_mask: Bool[Array, 'b u'], /
  ) -> Tokens | None:
    """Return the same classes with their log-probabilities."""
    ...


@runtime_checkable
class Adapter(Protocol):
  """Encoder frames -> embeddings that the LLM reads.

  kind: its name in `config.adapter.kind`. recognises: whether it recognises tokens:
  `greedy` does not return None. letters: whether letters, too.
  pretrained: its attributes that come from a pretrained model; with LoRA they are
  frozen except for low-rank updates.
  reach: encoder frames on each side that an output depends on; None if on all.
  config: its sizes: `stack`, `encoder_size`, `llm_size`.
  """

  @property
  def kind(self) -> str: ...

  @property
  def recognises(self) -> bool: ...

  @property
  def config(self) -> Any: ...

  @property
  def reach(self) -> int | None: ...

  @property
  def letters(self) -> bool: ...

  @property
  def pretrained(self) -> tuple[str, ...]: ...

  def token_ids(self) -> list[int]:
    """The LLM's tokens that it can recognise."""
    ...

  def __call__(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
    /,
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Return embeddings and their mask; `table` holds the LLM's input embeddings."""
    ...

  def greedy(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
    /,
  ) -> Int[Array, 'a s'] | None:
    """Return the token of every CTC segment where it starts, -1 elsewhere."""
    ...

  def recognise(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
    /,
  ) -> Recognition:
    """Return what `__call__` and `greedy` return, with log-probabilities, at once."""
    ...
