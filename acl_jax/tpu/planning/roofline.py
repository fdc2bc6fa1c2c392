# SPDX-License-Identifier: Apache-2.0
"""How long a step should take: an estimate, from how fast the chips compute, read their
memory and hear each other. No TPU has confirmed it.
"""

from typing import Any

from acl_jax.tpu.topologies import PRICES, Chip

EFFICIENCY = 0.5  # of the roofline; MaxText publishes 45 to 67 % for such models


def estimate(
  chip: Chip,
  chips: int,
  work: dict[str, float],
  efficiency: float,
  price: float | None,
) -> dict[str, Any]:
  """Seconds of a step, rates, and cost.

  work: of a step. `flops`, `hbm_bytes` and `ici_bytes` of each chip; `llm_tokens` and
  `audio_seconds` of all.
  """
  bounds = {
    'compute': work['flops'] / chip.flops,
    'memory': work['hbm_bytes'] / chip.hbm_rate,
    'network': work['ici_bytes'] / chip.ici,
  }
  slowest = max(bounds, key=lambda name: bounds[name])
  seconds = bounds[slowest] / efficiency
  price = chip.price if price is None else price
  hours = work['audio_seconds'] / 3_600 / seconds
  cost = None
  if price is not None and hours:
    cost = price * chips * 1_000 / hours / 3_600
  return {
    'step_seconds': seconds,
    'roofline_seconds': bounds,
    'bound_by': slowest,
    'llm_tokens_per_second': work['llm_tokens'] / seconds,
    'audio_hours_per_second': hours,
    'dollars_per_1000_audio_hours': cost,
    'from': {
      'flops_per_chip_and_second': chip.flops,
      'hbm_bytes_per_second': chip.hbm_rate,
      'ici_bytes_per_second': chip.ici,
      'share_of_the_roofline': efficiency,
      'dollars_per_chip_hour': price,
      'price': PRICES if price == chip.price else 'as given',
      **work,
    },
  }
