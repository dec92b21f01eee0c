"""What the tests of names and files of models share."""

import pytest
from loading import known_config


@pytest.fixture
def config(tmp_path):
    return known_config(tmp_path)
