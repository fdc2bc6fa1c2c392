# SPDX-License-Identifier: Apache-2.0
"""A request in progress: its positions, and the pages of the cache that hold them."""

from acl_jax.generation.extend import IS_AUDIO, Inputs
from acl_jax.generation.live_requests import EmbeddedClip, LiveRequest, Ticket
from acl_jax.generation.pages import Name, Page, Pages
from acl_jax.models.paged_cache import PAGE


class LiveSequence:
  """The positions of a prompt and of its response so far.

  num_written: positions whose keys and values are in `pages`. num_pages: that it needs
  at most.
  """

  def __init__(self, ticket: Ticket, names: list[Name]):
    self.ticket = ticket
    self.names, self.num_written = names, 0
    self.pages: list[Page] = []
    self.num_pages = -(-(len(names) + ticket.request.max_new_tokens) // PAGE)
    clips = (part for part in ticket.request.prompt if isinstance(part, EmbeddedClip))
    self._clips = {clip.content: clip.embeddings for clip in clips}

  @property
  def num_pending(self) -> int:
    """Positions to compute before the next token can be sampled."""
    return len(self.names) - self.num_written

  @property
  def num_new(self) -> int:
    """Tokens of the response so far."""
    return len(self.names) - self.ticket.num_prompt

  def reserve(self, num_positions: int, pages: Pages) -> None:
    """Take the pages that the next positions are written to."""
    while len(self.pages) * PAGE < self.num_written + num_positions:
      self.pages.append(pages.append(self.pages[-1] if self.pages else None))

  def fill_row(self, inputs: Inputs, row: int, num_positions: int) -> None:
    """Write the next positions into one row of the inputs of a call."""
    start, request = self.num_written, self.ticket.request
    inputs.table[row, : len(self.pages)] = [page.index for page in self.pages]
    for i, name in enumerate(self.names[start : start + num_positions]):
      if isinstance(name, int):
        inputs.tokens[row, i] = name
      else:
        assert inputs.embeddings is not None
        content, index = name
        inputs.tokens[row, i] = IS_AUDIO
        inputs.embeddings[row, i] = self._clips[content][index]
    inputs.start[row], inputs.length[row] = start, num_positions
    inputs.temperature[row] = request.sampling.temperature
    inputs.top_p[row] = request.sampling.top_p
    inputs.seed[row], inputs.step[row] = request.seed % 2**32, self.num_new

  def mark_written(self, num_positions: int) -> None:
    """Record that the keys and values of the next positions are in their pages."""
    for position in range(self.num_written, self.num_written + num_positions):
      self.pages[position // PAGE].names.append(self.names[position])
    self.num_written += num_positions


def name_positions(request: LiveRequest) -> list[Name]:
  """Name the positions of a prompt: a token's id, or a clip's content and an index."""
  names: list[Name] = []
  for part in request.prompt:
    if isinstance(part, EmbeddedClip):
      names += [(part.content, i) for i in range(len(part.embeddings))]
    else:
      names += map(int, part)
  return names
