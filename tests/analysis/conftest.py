"""Fashion-MNIST with its feature network, loaded once for all tests of measuring."""

import pytest

from analysis.quality.reference import ReferenceSet
from config.schema import DataConfig


@pytest.fixture(scope="session")
def fashion_mnist():
    """A reference set of all images; a score compares 10,000 of them."""
    return ReferenceSet.load(DataConfig(), 10_000)
