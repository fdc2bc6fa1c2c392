# SPDX-License-Identifier: Apache-2.0
"""The responses in progress, and the pages of the cache that they share.

A step prefills one chunk of some prompts and decodes one token of every response, so
that a long prompt does not delay the responses in progress.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from acl_jax.generation.extend import (
  Inputs,
  Sampled,
  copy_pool_page,
  empty_pool,
  extend,
)
from acl_jax.generation.live_requests import (
  LiveConfig,
  LiveStatistics,
  LiveToken,
  Ticket,
  end,
)
from acl_jax.generation.live_sequence import LiveSequence
from acl_jax.generation.pages import Name, Page, Pages
from acl_jax.models.llama import Llama
from acl_jax.models.paged_cache import PAGE
from acl_jax.runtime.rounding import round_up
from acl_jax.sharding.mesh import batch_parts

CHUNKS = 16, 64  # positions prefilled at once, of one prompt
PREFILL_ROWS = 1, 4  # prompts prefilled at once


class LiveBatch:
  """Sequences in at most `config.slots` slots; not thread-safe."""

  def __init__(self, llama: Llama, config: LiveConfig, stop_ids: Sequence[int]):
    self.llama, self.config, self.stop_ids = llama, config, frozenset(stop_ids)
    self.statistics = LiveStatistics(config.slots)
    self.running: list[LiveSequence] = []
    # Every device of a mesh gets as many rows.
    _, parts = batch_parts(jax.sharding.get_mesh())
    counts = [min(2**i, config.slots) for i in range(config.slots.bit_length() + 1)]
    self._decode_rows = sorted({round_up(count, parts) for count in counts})
    self._prefill_rows = sorted({round_up(rows, parts) for rows in PREFILL_ROWS})
    self._table_pages = -(-config.context // PAGE)
    # One more than the sequences need, for a page that is being copied.
    self._pages = Pages(-(-config.cached_tokens // PAGE) + 1)
    self._pool = empty_pool(llama, self._pages.count)

  def warm_up(self, progress: Callable[[str], None]) -> None:
    """Compile every shape, or load it from the persistent cache."""
    shapes = [(rows, size) for rows in self._prefill_rows for size in CHUNKS]
    shapes += [(rows, 1) for rows in self._decode_rows]
    for number, (rows, length) in enumerate(shapes, start=1):
      progress(f'{number} of {len(shapes)}: {rows} x {length} positions')
      self._call(self._padding(rows, length))
    self._pool = copy_pool_page(self._pool, np.int32(0), np.int32(0))

  def has_space(self, num_positions: int) -> bool:
    """Whether a sequence of this length at most can be added."""
    reserved = sum(sequence.num_pages for sequence in self.running)
    needed = reserved + -(-num_positions // PAGE)
    return len(self.running) < self.config.slots and needed < self._pages.count

  def add(self, ticket: Ticket, names: list[Name]) -> None:
    """Begin a response; what the cache holds of its prompt is not computed again."""
    sequence = LiveSequence(ticket, names)
    # The last position is always computed: the first token is sampled from it.
    pages, partial, common = self._pages.find_prefix(names[:-1])
    self._pages.use(pages)
    sequence.pages += pages
    sequence.num_written = len(pages) * PAGE
    if partial is not None:
      self._copy_page(sequence, partial, common)
    ticket.num_cached = sequence.num_written
    self.statistics.reused_tokens += ticket.num_cached
    self.running.append(sequence)

  def _copy_page(self, sequence: LiveSequence, source: Page, common: int) -> None:
    """Continue on a copy of a page whose first `common` positions are the same."""
    self._pages.use([source])  # so that its copy does not evict it
    sequence.reserve(common, self._pages)
    target = sequence.pages[-1].index
    self._pool = copy_pool_page(self._pool, np.int32(source.index), np.int32(target))
    sequence.mark_written(common)
    self._pages.release([source])

  def finish(self, sequence: LiveSequence, reason: str) -> None:
    """End a response without a further token."""
    self._leave(sequence)
    sequence.ticket.emit(end(reason))

  def _leave(self, sequence: LiveSequence) -> None:
    self.running.remove(sequence)
    self._pages.release(sequence.pages)

  def clear(self) -> None:
    """Forget the cache; nothing may be running."""
    self._pages.clear()
    self._pool = empty_pool(self.llama, self._pages.count)

  def step(self) -> None:
    """Prefill a chunk of some prompts, and decode a token of every response."""
    pending = [x for x in self.running if x.num_pending > 1][: self._prefill_rows[-1]]
    if pending:
      longest = max(sequence.num_pending for sequence in pending)
      chunk = next((size for size in CHUNKS if size >= longest), CHUNKS[-1])
      self._extend(pending, self._prefill_rows, chunk)
    decoding = [x for x in self.running if x.num_pending == 1]
    if decoding:
      self._extend(decoding, self._decode_rows, 1)

  def _extend(
    self, sequences: Sequence[LiveSequence], row_counts: Sequence[int], length: int
  ) -> None:
    """Compute up to `length` positions of each sequence; sample where none is left."""
    rows = next(count for count in row_counts if count >= len(sequences))
    inputs = self._padding(rows, length)
    counts = [min(length, sequence.num_pending) for sequence in sequences]
    for row, (sequence, count) in enumerate(zip(sequences, counts, strict=True)):
      sequence.reserve(count, self._pages)
      sequence.fill_row(inputs, row, count)
    inputs.wants_top[...] = any(x.ticket.request.num_top_tokens for x in sequences)
    sampled = self._call(inputs)
    for row, (sequence, count) in enumerate(zip(sequences, counts, strict=True)):
      self.statistics.prefilled_tokens += count if sequence.num_new == 0 else 0
      sequence.mark_written(count)
      if not sequence.num_pending:
        self._append_token(sequence, sampled, row)

  def _append_token(self, sequence: LiveSequence, sampled: Sampled, row: int) -> None:
    request, token = sequence.ticket.request, int(sampled.token[row])
    reason = 'length' if sequence.num_new + 1 == request.max_new_tokens else ''
    reason = 'stop' if token in self.stop_ids else reason
    k = request.num_top_tokens
    ids, log_probs = sampled.top_ids[row, :k], sampled.top_log_probs[row, :k]
    top = tuple(zip(ids.tolist(), log_probs.tolist(), strict=True))
    sequence.names.append(token)
    self.statistics.tokens += 1
    if reason:
      self._leave(sequence)
      self.statistics.responses += 1
    sequence.ticket.emit(LiveToken(token, float(sampled.log_prob[row]), top, reason))

  def _padding(self, rows: int, length: int) -> Inputs:
    # Only prompts have audio: a decoded token is never an embedding.
    audio_size = self.llama.config.hidden_size if length > 1 else 0
    return Inputs.padding(rows, length, self._table_pages, audio_size)

  def _call(self, inputs: Inputs) -> Sampled:
    self._pool, sampled = extend(self.llama, self._pool, inputs)
    return jax.tree.map(np.asarray, sampled)
