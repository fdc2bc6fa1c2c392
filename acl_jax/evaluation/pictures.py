# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG, spectrograms and sound as data: URLs, all to stand inside one page."""

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float, Float32

from acl_jax.evaluation.markup import Markup, tag
from data_pipeline.audio import SAMPLE_RATE

WIDTH = 720  # of a chart, in units of its own
MAX_COLUMNS = 600  # of a spectrogram


class Bar(NamedTuple):
  """One line of a bar chart; without a value it says so. kind: a class of the style."""

  label: str
  value: float | None
  kind: str


def bar_chart(bars: Sequence[Bar], title: str) -> Markup:
  """Horizontal bars, from 0."""
  left, right, line = 178, 74, 38
  most = max([bar.value for bar in bars if bar.value is not None] or [1]) or 1
  shapes = [tag('title', title)]
  for number, bar in enumerate(bars):
    y = number * line
    middle = y + line / 2 + 5
    shapes.append(tag('text', bar.label, x=left - 12, y=middle, text_anchor='end'))
    if bar.value is None:
      shapes.append(tag('text', 'not measured', x=left, y=middle, class_='faint'))
      continue
    width = max(2.0, (WIDTH - left - right) * bar.value / most)
    shapes += [
      tag(
        'rect',
        x=left,
        y=y + 7,
        width=round(width, 1),
        height=line - 14,
        rx=3,
        class_=bar.kind,
      ),
      tag('text', f'{bar.value:.3f}', x=round(left + width + 10, 1), y=middle),
    ]
  return _svg(shapes, len(bars) * line, title)


def line_chart(points: Sequence[tuple[int, float]], title: str) -> Markup:
  """A line through (step, value) points, the values from 0 on."""
  left, right, top, bottom, height = 56, 30, 12, 30, 230
  last = max(x for x, _ in points) or 1
  ticks = round_ticks(max(y for _, y in points))
  across = (WIDTH - left - right) / last
  up = (height - top - bottom) / ticks[-1]
  shapes = [tag('title', title)]
  for value in ticks:
    y = round(height - bottom - value * up, 1)
    shapes += [
      tag('line', x1=left, x2=WIDTH - right, y1=y, y2=y, class_='grid'),
      tag('text', f'{value:g}', x=left - 10, y=y + 5, text_anchor='end'),
    ]
  for value in round_ticks(last):
    if value <= last:
      x = round(left + value * across, 1)
      words = f'{value:,.0f}'
      shapes.append(tag('text', words, x=x, y=height - 6, text_anchor='middle'))
  path = ' '.join(
    f'{left + x * across:.1f},{height - bottom - y * up:.1f}' for x, y in points
  )
  return _svg([*shapes, tag('polyline', points=path, class_='curve')], height, title)


def round_ticks(most: float | int) -> list[float]:
  """Three to six round numbers from 0 to `most` or just above."""
  if not most > 0:
    return [0.0, 1.0]
  size = 10.0 ** math.floor(math.log10(most / 3))
  step = next(f * size for f in (1, 2, 5, 10) if most / (f * size) <= 5)
  return [i * step for i in range(math.ceil(most / step - 1e-9) + 1)]


def _svg(shapes: Sequence[Markup], height: int, title: str) -> Markup:
  view = {'viewBox': f'0 0 {WIDTH} {height}', 'role': 'img', 'aria_label': title}
  return tag('svg', *shapes, **view)


def spectrogram(log_mel: Float[np.ndarray, 't m']) -> str:
  """A log-mel spectrogram as the data: URL of a PNG, low notes at the bottom."""
  from matplotlib import image  # slow to import

  fold = -(-len(log_mel) // MAX_COLUMNS)
  whole = log_mel[: len(log_mel) // fold * fold]
  columns = whole.reshape(-1, fold, whole.shape[1]).mean(axis=1)
  file = io.BytesIO()
  image.imsave(file, columns.T, cmap='magma', origin='lower', format='png')
  return _data_url('image/png', file.getvalue())


def sound_url(sound: Float32[np.ndarray, ' samples']) -> str:
  """16 kHz mono audio as the data: URL of an MP3, which every browser plays."""
  file = io.BytesIO()
  clipped = np.clip(sound, -1, 1)
  soundfile.write(file, clipped, SAMPLE_RATE, 'MPEG_LAYER_III', format='MP3')
  return _data_url('audio/mpeg', file.getvalue())


def _data_url(kind: str, data: bytes) -> str:
  return f'data:{kind};base64,{base64.b64encode(data).decode()}'
