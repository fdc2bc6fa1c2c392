# SPDX-License-Identifier: Apache-2.0
"""How well speech stands in for its transcript: what is measured, and the report."""
