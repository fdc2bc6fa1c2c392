# SPDX-License-Identifier: Apache-2.0
"""Format plans as lines and tables, for a terminal or in Markdown."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

GB = 1e9
COLUMNS = (
  'slice',
  'chips',
  'mesh',
  'LLM',
  'remat',
  'tokens/chip',
  'compile s',
  'GB/chip',
  'of HBM',
  'collectives',
  'FLOPs/N',
  'step s *',
  'tokens/s/chip *',
  'audio h/s *',
  '$/1000 h *',
)


def format_line(plan: dict[str, Any]) -> str:
  """Return a plan in one line."""
  peak, capacity = plan['hbm_bytes_per_chip'], plan['hbm_capacity_bytes']
  verdict = 'fits' if plan['fits'] else 'does not fit'
  return (
    f'{plan["topology"]}, {_format_mesh(plan)}, remat {plan["remat"]},'
    f' {plan["rows_per_chip"]:g} rows per chip: {peak / GB:.1f} GB of'
    f' {capacity / GB:.1f}, {verdict}'
  )


def footnote(efficiency: float) -> str:
  """Return the footnote that the stars in the column names refer to."""
  return (
    f'* estimated as {efficiency:.0%} of the roofline of published rates; no TPU used'
  )


def _format_mesh(plan: dict[str, Any]) -> str:
  sizes = (f'{axis} {size}' for axis, size in plan['mesh'].items() if size > 1)
  return ' '.join(sizes) or 'one device'


def table_row(plan: dict[str, Any]) -> list[str]:
  """Return a plan's cells, one for each of `COLUMNS`."""
  estimate, llm = plan['estimate'], plan['llm']
  peak, capacity = plan['hbm_bytes_per_chip'], plan['hbm_capacity_bytes']
  per_token = plan['flops_per_llm_token_over_n']
  cost = estimate['dollars_per_1000_audio_hours']
  return [
    plan['topology'],
    str(plan['chips']),
    _format_mesh(plan),
    ' '.join(llm.values()) if llm else '-',
    str(plan['remat']),
    f'{plan["llm_tokens_per_chip"]:.0f}',
    f'{plan["compile_seconds"]:.0f}',
    f'{peak / GB:.1f}',
    f'{peak / capacity:.0%}' + ('' if plan['fits'] else ' !'),
    _format_collectives(plan['collectives']),
    '-' if per_token is None else f'{per_token:.2f}',
    f'{estimate["step_seconds"]:.2f}',
    f'{estimate["llm_tokens_per_second"] / plan["chips"]:,.0f}',
    f'{estimate["audio_hours_per_second"]:.2f}',
    '-' if cost is None else f'{cost:,.2f}',
  ]


def _format_collectives(counts: dict[str, int] | None) -> str:
  if counts is None:
    return '?'
  return ', '.join(f'{count} {kind}' for kind, count in counts.items()) or 'none'


def make_table(plans: Iterable[dict[str, Any]]) -> Table:
  """Return a table for a terminal; plans that do not fit are dim."""
  table = Table(*COLUMNS)
  for plan in plans:
    table.add_row(*table_row(plan), style=None if plan['fits'] else 'dim')
  return table


def format_markdown(plans: Iterable[dict[str, Any]]) -> str:
  """Return a Markdown table, for a README."""
  rows = [COLUMNS, ['---'] * len(COLUMNS), *map(table_row, plans)]
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)
