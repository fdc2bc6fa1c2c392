# SPDX-License-Identifier: Apache-2.0
"""A roofline estimate of a step's time, throughput and cost.

It follows from published rates of compute, HBM and interconnect. It has not been
checked on a TPU.
"""

from typing import Any

from acl_jax.tpu.topologies import PRICE_BASIS, Chip

# Share of the roofline; MaxText publishes 45 to 67 % for similar models.
DEFAULT_EFFICIENCY = 0.5


def estimate(
  chip: Chip,
  chips: int,
  work: dict[str, float],
  efficiency: float,
  price: float | None,
) -> dict[str, Any]:
  """Estimate the seconds of a step, its throughput and its cost.

  Args:
    chip: The kind of chip.
    chips: How many of them run the step.
    work: Of one step: `flops`, `hbm_bytes` and `ici_bytes` of each chip, `llm_tokens`
      and `audio_seconds` of all chips together.
    efficiency: Share of the roofline that is reached.
    price: US dollars per chip-hour; None for the list price.
  """
  bounds = {
    'compute': work['flops'] / chip.flops_per_second,
    'memory': work['hbm_bytes'] / chip.hbm_bytes_per_second,
    'network': work['ici_bytes'] / chip.ici_bytes_per_second,
  }
  slowest = max(bounds, key=lambda name: bounds[name])
  seconds = bounds[slowest] / efficiency
  price = chip.price if price is None else price
  hours_per_second = work['audio_seconds'] / 3_600 / seconds
  cost = None
  if price is not None and hours_per_second:
    cost = price * chips * 1_000 / hours_per_second / 3_600
  return {
    'step_seconds': seconds,
    'roofline_seconds': bounds,
    'bound_by': slowest,
    'llm_tokens_per_second': work['llm_tokens'] / seconds,
    'audio_hours_per_second': hours_per_second,
    'dollars_per_1000_audio_hours': cost,
    'from': {
      'flops_per_chip_and_second': chip.flops_per_second,
      'hbm_bytes_per_second': chip.hbm_bytes_per_second,
      'ici_bytes_per_second': chip.ici_bytes_per_second,
      'share_of_the_roofline': efficiency,
      'dollars_per_chip_hour': price,
      'price': PRICE_BASIS if price == chip.price else 'as given',
      **work,
    },
  }
