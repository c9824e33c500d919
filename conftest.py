"""For every test: hypothesis does not judge how long an example takes, since processors are shared."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
