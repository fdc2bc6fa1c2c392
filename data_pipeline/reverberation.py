# SPDX-License-Identifier: Apache-2.0
"""Reverberation of a random shoebox room, by the image method.

Source: Allen and Berkley 1979. Every reflection in a wall is the direct path from an
image of the source behind it.
"""

import functools

import numpy as np
import scipy.fft
from jaxtyping import Float, Int

from data_pipeline.audio import SAMPLE_RATE

SPEED_OF_SOUND = 343.0  # m/s
MAX_ORDER = 14  # reflections on a path; later ones are hardly audible
MAX_SECONDS = 0.5  # of the response
SMALLEST_ROOM, LARGEST_ROOM = (2.5, 2.5, 2.2), (10.0, 8.0, 4.0)  # m
REFLECTION = 0.4, 0.92  # amplitude after a reflection, minimum and maximum
WALL_DISTANCE = 0.3  # m, of source and microphone at least


@functools.cache
def _image_numbers(order: int) -> Int[np.ndarray, 'i 3']:
  """Return the images along each axis whose paths have at most `order` reflections."""
  numbers = np.arange(-order, order + 1)
  grid = np.stack(np.meshgrid(numbers, numbers, numbers, indexing='ij'), -1)
  images = grid.reshape(-1, 3)
  return images[np.abs(images).sum(axis=1) <= order]


def room_response(
  room: Float[np.ndarray, '3'],
  source: Float[np.ndarray, '3'],
  microphone: Float[np.ndarray, '3'],
  reflection: Float[np.ndarray, '3'],
  order: int = MAX_ORDER,
) -> Float[np.ndarray, ' samples']:
  """Return the impulse response; its first sample is the direct path, of amplitude 1.

  The time that sound takes along the direct path is left out.

  room, source, microphone: sizes and positions from one corner, in m. reflection: of
  the walls across each axis, amplitude after / before.
  """
  images = _image_numbers(order)
  # Image n lies in the nth room along an axis; every other room is a mirror image.
  inside = np.where(images % 2, room - source, source)
  distances = np.linalg.norm(images * room + inside - microphone, axis=1)
  direct = float(np.linalg.norm(source - microphone))
  amplitudes = np.prod(reflection ** np.abs(images), axis=1) * direct / distances
  delays = np.round((distances - direct) / SPEED_OF_SOUND * SAMPLE_RATE).astype(int)
  audible = delays < MAX_SECONDS * SAMPLE_RATE
  response = np.bincount(delays[audible], amplitudes[audible])
  return response.astype(np.float32)


def random_response(rng: np.random.Generator) -> Float[np.ndarray, ' samples']:
  """Return the response of a random room, with source and microphone in it."""
  room = rng.uniform(SMALLEST_ROOM, LARGEST_ROOM)
  source, microphone = rng.uniform(WALL_DISTANCE, room - WALL_DISTANCE, (2, 3))
  # A microphone in the source itself would hear no room.
  microphone += 0.1 * (np.linalg.norm(microphone - source) < 0.1)
  return room_response(room, source, microphone, rng.uniform(*REFLECTION, 3))


def reverberate(
  audio: Float[np.ndarray, ' samples'], response: Float[np.ndarray, ' taps']
) -> Float[np.ndarray, ' samples']:
  """Return the audio in a room, as loud and as long as before; what rings on is cut."""
  size = scipy.fft.next_fast_len(len(audio) + len(response) - 1, real=True)
  spectrum = scipy.fft.rfft(audio, size) * scipy.fft.rfft(response, size)
  wet = scipy.fft.irfft(spectrum, size)[: len(audio)]
  power = float(np.mean(np.square(wet)))
  gain = np.sqrt(float(np.mean(np.square(audio))) / power) if power > 0 else 0.0
  return (wet * np.float32(gain)).astype(np.float32, copy=False)
