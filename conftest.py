"""For every test: no example is judged by its time, since processors are shared; and imports stay out of garbage."""

import gc
import sys

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
imported = set()


def pytest_runtest_teardown():
    """Keeps what was imported out of garbage collections.

    It lives to the end, and every model that is closed asks for a collection, which takes half a second over all of
    transformers.
    """
    if len(sys.modules) > len(imported):
        imported.update(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()
