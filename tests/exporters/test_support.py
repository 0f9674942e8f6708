"""The README's table of models is the registry's."""

import pytest

from diffrt.tasks import TASKS
from exporters.families import FAMILIES
from exporters.support import table
from tests.conftest import REPOSITORY


def test_the_readme_has_it():
    assert table() in (REPOSITORY / "README.md").read_text("utf-8"), "python -m exporters.support prints it anew"


@pytest.mark.parametrize("name", FAMILIES)
def test_tasks_are_there(name):
    assert set(FAMILIES[name].all_tasks) <= set(TASKS)
