# SPDX-License-Identifier: Apache-2.0
"""Plans as lines and tables, for a terminal or in Markdown."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

GB = 1e9
COLUMNS = (
  *('slice', 'chips', 'mesh', 'LLM', 'remat', 'tokens/chip', 'compile s'),
  *('GB/chip', 'of it', 'collectives', 'FLOPs/N', 'step s *', 'tokens/s/chip *'),
  *('audio h/s *', '$/1000 h *'),
)


def line(plan: dict[str, Any]) -> str:
  """A plan in one line."""
  peak, capacity = plan['hbm_bytes_per_chip'], plan['hbm_capacity_bytes']
  return (
    f'{plan["topology"]}, {_mesh(plan)}, remat {plan["remat"]},'
    f' {plan["rows_per_chip"]:g} rows a chip: {peak / GB:.1f} GB of'
    f' {capacity / GB:.1f},'
    f' {"fits" if plan["fits"] else "does not fit"}'
  )


def note(efficiency: float) -> str:
  """What the stars stand for."""
  return (
    f'* estimates, {efficiency:.0%} of the roofline of published rates; no TPU was used'
  )


def _mesh(plan: dict[str, Any]) -> str:
  sizes = (f'{axis} {size}' for axis, size in plan['mesh'].items() if size > 1)
  return ' '.join(sizes) or 'one device'


def cells(plan: dict[str, Any]) -> list[str]:
  """A plan as a row of the table."""
  estimate, llm = plan['estimate'], plan['llm']
  peak, capacity = plan['hbm_bytes_per_chip'], plan['hbm_capacity_bytes']
  found, per_token = plan['collectives'], plan['flops_per_llm_token_over_n']
  cost = estimate['dollars_per_1000_audio_hours']
  return [
    plan['topology'],
    str(plan['chips']),
    _mesh(plan),
    ' '.join(llm.values()) if llm else '-',
    str(plan['remat']),
    f'{plan["llm_tokens_per_chip"]:.0f}',
    f'{plan["compile_seconds"]:.0f}',
    f'{peak / GB:.1f}',
    f'{peak / capacity:.0%}' + ('' if plan['fits'] else ' !'),
    '?' if found is None else ', '.join(f'{n} {k}' for k, n in found.items()) or 'none',
    '-' if per_token is None else f'{per_token:.2f}',
    f'{estimate["step_seconds"]:.2f}',
    f'{estimate["llm_tokens_per_second"] / plan["chips"]:,.0f}',
    f'{estimate["audio_hours_per_second"]:.2f}',
    '-' if cost is None else f'{cost:,.2f}',
  ]


def table(plans: Iterable[dict[str, Any]]) -> Table:
  """For a terminal."""
  drawn = Table(*COLUMNS)
  for plan in plans:
    drawn.add_row(*cells(plan), style=None if plan['fits'] else 'dim')
  return drawn


def markdown(plans: Iterable[dict[str, Any]]) -> str:
  """For a README."""
  rows = [COLUMNS, ['---'] * len(COLUMNS), *map(cells, plans)]
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)
