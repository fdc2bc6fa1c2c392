# SPDX-License-Identifier: Apache-2.0
"""An HTML page as a parser sees it."""

import html.parser

VOID_ELEMENTS = ('img', 'input', 'meta')


class Page(html.parser.HTMLParser):
  """Elements in order, with attributes, and the text inside each kind of element."""

  def __init__(self, page):
    super().__init__()
    self.elements, self.texts, self._open = [], {}, []
    self.feed(page)
    self.close()
    assert not self._open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID_ELEMENTS:
      self._open.append((tag, []))

  def handle_data(self, data):
    for _, chunks in self._open:
      chunks.append(data)

  def handle_endtag(self, tag):
    opened, chunks = self._open.pop()
    assert tag == opened
    self.texts.setdefault(tag, []).append(''.join(chunks))

  def structure(self):
    """Elements and names of attributes; without the marks of differing words."""
    return [(tag, list(attrs)) for tag, attrs in self.elements if tag != 'mark']

  def attributes(self, name):
    return [attrs[name] for _, attrs in self.elements if name in attrs]
