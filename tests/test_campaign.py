"""The short form of tests/campaign.py."""

from .campaign import mutations


def test_mutated_bundles(sd1_bundle, tmp_path):
    lines = []
    assert mutations(sd1_bundle, tmp_path, range(1000, 1025), lines.append) == []
    assert sum("Error" in line for line in lines) > 15  # most of them are seen
