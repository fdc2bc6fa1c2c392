# SPDX-License-Identifier: Apache-2.0
import pytest

from benchmarks import flops


@pytest.mark.parametrize('remat', [None, 'dots'])
def test_the_frozen_llm_costs_two_thirds_of_training_it(remat):
  assert flops.flops_per_token_over_n(flops.Sizes(), remat=remat) <= 4.35


def test_masking_updates_instead_of_freezing_would_be_seen():
  assert flops.flops_per_token_over_n(flops.Sizes(), masked=True) >= 6


def test_the_count_is_that_of_a_layer():
  cheap, dear = flops.Sizes(vocabulary=100), flops.Sizes(vocabulary=40_000)
  a, b = (flops.flops_per_token_over_n(sizes) for sizes in (cheap, dear))
  assert a == pytest.approx(b, rel=1e-6)
