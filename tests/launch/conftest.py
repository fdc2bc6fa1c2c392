# SPDX-License-Identifier: Apache-2.0
"""Stubs of the Cloud's command-line tools."""

import pytest

from tests.launch.stub_tools import Tools


@pytest.fixture
def tools(tmp_path) -> Tools:
  return Tools(tmp_path / 'tools', 'gcloud', 'git', 'kubectl')
