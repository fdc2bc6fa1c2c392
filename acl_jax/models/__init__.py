# SPDX-License-Identifier: Apache-2.0
"""The networks: pure functions of (parameters, inputs, key)."""
