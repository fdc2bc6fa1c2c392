# SPDX-License-Identifier: Apache-2.0
import pytest

from benchmarks import flops

pytestmark = pytest.mark.full  # compiles much


@pytest.mark.parametrize('remat', [None, 'dots'])
def test_the_frozen_llm_costs_two_thirds_of_training_it(remat):
  assert flops.flops_per_token_over_n(flops.Sizes(), remat=remat) <= 4.35


def test_masking_updates_costs_more_than_freezing():
  assert flops.flops_per_token_over_n(flops.Sizes(), masked=True) >= 6


def test_the_vocabulary_does_not_change_the_count_of_a_layer():
  small, large = flops.Sizes(vocabulary=100), flops.Sizes(vocabulary=40_000)
  a, b = (flops.flops_per_token_over_n(sizes) for sizes in (small, large))
  assert a == pytest.approx(b, rel=1e-6)
