"""Liger's kernels in a model's norms and MLPs. Importing this imports liger_kernel, and with it Triton."""

from __future__ import annotations

import sys
from inspect import signature

from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
from transformers import PreTrainedModel

from bp_core.errors import ModelUnusable

# Liger's rotary positions would replace a function that all models of the family in this process share, also those on
# the CPU; head and loss are ours, computed only for trained tokens.
_LEFT_OUT = ("rope", "cross_entropy", "fused_linear_cross_entropy")


def patch(model: PreTrainedModel) -> None:
    """Use Liger's kernels in this model, and in no other of its family. Raises ModelUnusable."""
    kind = model.config.model_type
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(kind)
    if apply is None:
        fix = f"Leave --liger out; it knows {', '.join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))}."
        raise ModelUnusable(f"Liger has no kernels for models of the family {kind}.", fix=fix)
    family = vars(sys.modules[type(model).__module__])
    before = dict(family)
    try:
        apply(model=model, **{name: False for name in _LEFT_OUT if name in signature(apply).parameters})
    finally:
        family.update(before)  # Liger also patches the module of the model's class, which other models use
