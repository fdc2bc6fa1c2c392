# SPDX-License-Identifier: Apache-2.0
"""The pages of the KV cache, and what they hold: prompts find their prefix again.

The pages form a tree. A path from its root spells a sequence of positions, page by
page, and a new sequence reuses the pages of the longest path that it begins with.
Unused pages stay until their space is needed; the least recently used go first.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from acl_jax.models.paged_cache import PAGE

# What stands at a position: a token, or an embedding of a clip by content and index.
Name = int | tuple[str, int]


@dataclasses.dataclass(eq=False)
class Page:
  """A page of the pool.

  names: of the positions whose keys and values it holds; they follow those of `parent`.
  num_users: sequences in progress that read it.
  """

  index: int
  parent: 'Page | None'
  names: list[Name] = dataclasses.field(default_factory=list)
  children: list['Page'] = dataclasses.field(default_factory=list)
  num_users: int = 0
  last_used: int = 0


class Pages:
  """All pages of a pool, free or in the tree."""

  def __init__(self, count: int):
    self.count = count
    self._root = Page(-1, None)
    self._free = list(range(count))
    self._clock = 0

  def find_prefix(self, names: Sequence[Name]) -> tuple[list[Page], Page | None, int]:
    """Return the pages that hold the longest known prefix of a sequence.

    Returns the full pages in order, the page that holds what follows in part, if any,
    and the length of that part.
    """
    pages, node = [], self._root
    while True:
      rest = names[len(pages) * PAGE : (len(pages) + 1) * PAGE]
      child, common = None, 0
      for page in node.children:
        if (length := _num_common(page.names, rest)) > common:
          child, common = page, length
      if child is None or common < PAGE:
        return pages, child, common
      pages.append(child)
      node = child

  def use(self, pages: Sequence[Page]) -> None:
    """Keep pages from being evicted, until they are released."""
    for page in pages:
      page.num_users += 1

  def release(self, pages: Sequence[Page]) -> None:
    """End the use of the pages of one sequence; they stay for others to find."""
    self._clock += 1
    for page in pages:
      page.num_users -= 1
      page.last_used = self._clock

  def append(self, parent: Page | None) -> Page:
    """Take a page that follows `parent`, in use from now on; evicts one if needed.

    The caller has made sure that not all pages are in use.
    """
    index = self._free.pop() if self._free else self._evict()
    parent = parent or self._root
    page = Page(index, parent, num_users=1)
    parent.children.append(page)
    return page

  def clear(self) -> None:
    """Forget what all pages hold."""
    self._root.children.clear()
    self._free = list(range(self.count))

  def _evict(self) -> int:
    # A user of a page also uses its parents, so that some leaf is unused.
    leaves = (page for page in self._walk() if not (page.children or page.num_users))
    page = min(leaves, key=lambda page: page.last_used)
    assert page.parent is not None
    page.parent.children.remove(page)
    return page.index

  def _walk(self) -> Iterator[Page]:
    pending = list(self._root.children)
    while pending:
      page = pending.pop()
      pending += page.children
      yield page


def _num_common(first: Sequence[Name], second: Sequence[Name]) -> int:
  """Return the length of the common prefix of two sequences."""
  for i, (a, b) in enumerate(zip(first, second, strict=False)):
    if a != b:
      return i
  return min(len(first), len(second))
