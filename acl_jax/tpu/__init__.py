# SPDX-License-Identifier: Apache-2.0
"""TPU slices, their chips and compiler flags, and planning without any TPU."""
