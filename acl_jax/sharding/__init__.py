# SPDX-License-Identifier: Apache-2.0
"""The device mesh, and the sharding of every array over it."""
