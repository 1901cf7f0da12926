"""One child for all fuzz tests: TensorFlow takes seconds to import."""

import pytest

from tests.hostile.child import Child


@pytest.fixture(scope="package")
def child():
    child = Child()
    yield child
    child.stop()
