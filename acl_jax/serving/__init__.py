# SPDX-License-Identifier: Apache-2.0
"""The speech chat server and its parts."""
