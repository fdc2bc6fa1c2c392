# SPDX-License-Identifier: Apache-2.0
"""The abilities that `evaluate` measures, one file each."""
