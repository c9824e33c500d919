import functools

import pytest
import torch

from bp_cuda.key_value_cache import cache_argument


class Newer(torch.nn.Module):
    """A model whose `forward` has the newer word, under a decorator as transformers puts one on."""

    @staticmethod
    def _renaming(function):
        return functools.wraps(function)(lambda *arguments, **options: function(*arguments, **options))

    @_renaming
    def forward(self, input_ids=None, cache=None, **options):
        return input_ids


class Older(torch.nn.Module):
    def forward(self, input_ids=None, past_key_values=None, **options):
        return input_ids


@pytest.mark.parametrize(("model", "name"), [(Newer(), "cache"), (Older(), "past_key_values")])
def test_the_cache_is_called_as_the_model_calls_it(model, name):
    assert cache_argument(model) == name
