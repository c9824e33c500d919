"""Liger's kernels in a model's norms and MLPs. Importing this imports liger_kernel, and with it Triton."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
from transformers import PreTrainedModel

from bp_core.errors import ModelUnusable

# Rotary positions are one function for all models of a family in a process, also for those that compute on the host;
# the head computes only where a target is, and its loss is ours.
_LEFT_OUT = ("rope", "cross_entropy", "fused_linear_cross_entropy")


def patch(model: PreTrainedModel) -> None:
    """Let this model, and no other of its family, compute by Liger's kernels. Raises ModelUnusable."""
    kind = model.config.model_type
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(kind)
    if apply is None:
        fix = f"Leave --liger out; it knows {', '.join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))}."
        raise ModelUnusable(f"Liger has no kernels for models of the family {kind}.", fix=fix)
    with _family_as_it_was(model):
        apply(model=model, **{name: False for name in _LEFT_OUT if name in signature(apply).parameters})


@contextmanager
def _family_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Liger patches the model, and besides the module of its class, of which others would be built."""
    family = vars(sys.modules[type(model).__module__])
    before = dict(family)
    try:
        yield
    finally:
        family.update(before)
