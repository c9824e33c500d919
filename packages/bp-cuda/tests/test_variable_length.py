"""Kernels that a card may have: each is taken only where it gives the same logits and gradients on two short rows.

The kernel itself computes on cards only. Here its place is taken by a function with its signature that computes the
same by plain products, and by ones with faults; that torch's own accepts the call is tried on tensors without numbers.
"""

import math
from types import MethodType, SimpleNamespace

import pytest
import torch
from test_attention import gradients, moved
from tiny_models import batch, opened, recipe, save_tiny
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from bp_core.errors import ModelUnusable
from bp_core.rail import Job
from bp_cuda import attention, loading, variable_length
from bp_cuda import model as models
from bp_cuda.rail import CpuRail, CudaRail


def plain(query, key, value, ends, key_ends, longest, longest_key, *, scale, window_size, enable_gqa):
    """What torch's kernel computes: query [n, heads, dim], causal within each segment, and within the window."""
    assert ends.dtype == torch.int32 and ends is key_ends and longest == longest_key == int(ends.diff().max())
    assert enable_gqa and window_size[1] == 0 and query.dtype == key.dtype == value.dtype != torch.float32
    segment = torch.bucketize(torch.arange(len(query)), ends[1:], right=True)
    distance = torch.arange(len(query))[:, None] - torch.arange(len(query))
    seen = (segment[:, None] == segment) & (distance >= 0)
    if window_size[0] >= 0:
        seen &= distance <= window_size[0]
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * (scale or query.shape[-1] ** -0.5)
    weights = scores.masked_fill(~seen, -math.inf).float().softmax(-1).to(query.dtype)
    return torch.einsum("hqk,khd->qhd", weights, value)


def leaking(query, key, value, ends, *rest, **options):
    """Takes all segments for one."""
    whole = torch.tensor([0, len(query)], dtype=torch.int32)
    return plain(query, key, value, whole, whole, len(query), len(query), **options)


def teaching_wrongly(query, key, value, *rest, **options):
    """The right result, with gradients that miss the keys."""
    return plain(query, key.detach(), value, *rest, **options)


def failing(*inputs, **options):
    raise RuntimeError("no kernel image is available for execution on the device")


@pytest.fixture
def kernel(monkeypatch):
    """Puts a function in the kernel's place; the list has what was called."""
    called = []

    def put(function):
        def computed(*inputs, **options):
            called.append(function)
            return function(*inputs, **options)

        monkeypatch.setattr(variable_length, "varlen_attn", computed)
        monkeypatch.setattr(variable_length, "_IS_TOLD", True)
        monkeypatch.setattr(variable_length, "_FEWER_KEYS", {"enable_gqa": True})
        monkeypatch.setattr(attention, "fastest", lambda device, computed: [attention.VARIABLE])
        return called

    return put


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3_text", "phi3", "smollm3"])
@pytest.mark.parametrize("changes", [{}, {"dropout": 1e-9}], ids=["layers in groups", "layers of transformers"])
def test_a_kernel_for_several_lengths_gives_what_torchs_own_gives(family, changes, tmp_path, kernel):
    folder = save_tiny(tmp_path, family)
    loss, gradient = gradients(moved(folder, dtype="bfloat16", **changes), [batch()])
    called = kernel(plain)
    rail = moved(folder, dtype="bfloat16", **changes)
    assert rail.separable and rail.model.config._attn_implementation == attention.VARIABLE
    called.clear()
    other, theirs = gradients(rail, [batch()])
    assert len(called) == rail.model.config.num_hidden_layers
    assert other == pytest.approx(loss, rel=1e-2)
    assert torch.nn.functional.cosine_similarity(gradient, theirs, dim=0) > 0.99
    called.clear()
    gradients(rail, [batch((9,))])
    assert not called  # one example alone is computed as ever


@pytest.mark.parametrize("fault", [leaking, teaching_wrongly, failing])
def test_a_kernel_with_a_fault_is_not_taken(fault, tiny, kernel):
    loss, _ = gradients(moved(tiny, dtype="bfloat16"), [batch()])
    called = kernel(fault)
    rail = moved(tiny, dtype="bfloat16")
    assert called and rail.separable and rail.model.config._attn_implementation == attention.NAME
    assert gradients(rail, [batch()])[0] == loss


def test_a_kernel_that_ends_for_lack_of_memory_is_no_bad_kernel(tiny, kernel):
    def full(*inputs, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    kernel(full)
    with pytest.raises(Exception, match="memory"):
        opened(tiny, dtype="bfloat16")


def test_what_the_kernel_does_not_compute_is_computed_as_ever(tmp_path, kernel):
    folder = save_tiny(tmp_path, "gemma2")  # squashes its scores
    loss, gradient = gradients(moved(folder, dtype="bfloat16"), [batch()])
    called = kernel(plain)
    other, theirs = gradients(moved(folder, dtype="bfloat16"), [batch()])
    assert not called and other == loss and torch.equal(gradient, theirs)


def test_what_is_asked_for_is_not_replaced(tiny, kernel):
    called = kernel(plain)
    for wanted, name in (("sdpa", attention.NAME), ("eager", attention.EAGER)):
        assert opened(tiny, attention=wanted, dtype="bfloat16").model.config._attn_implementation == name
    rail = CpuRail()
    rail.open(Job(tiny))  # only to be asked
    assert rail.model.config._attn_implementation == attention.NAME
    assert not called


def test_only_a_card_and_16_bits_have_such_kernels(monkeypatch):
    card = torch.device("cuda")
    assert attention.fastest(torch.device("cpu"), torch.bfloat16) == attention.fastest(card, torch.float32) == []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    assert attention.fastest(card, torch.bfloat16) == [attention.VARIABLE]
    monkeypatch.setattr(attention, "find_spec", lambda name: name)
    assert attention.fastest(card, torch.bfloat16) == [attention.VARIABLE, attention.FLASH]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert attention.fastest(card, torch.bfloat16) == [attention.VARIABLE]


@pytest.mark.parametrize("window", [None, 5])
def test_torchs_own_kernel_takes_the_call(window, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    with FakeTensorMode():
        shape = {"device": "cuda", "dtype": torch.bfloat16}
        query, key, value = (torch.empty(1, heads, 18, 64, **shape) for heads in (9, 3, 3))
        told = {"cu_seq_lens_k": torch.empty(3, dtype=torch.int32, device="cuda"), "max_length_k": 11}
        attended, _ = variable_length.attend(None, query, key, value, None, **told, sliding_window=window)
        assert attended.shape == (1, 18, 9, 64)


class Waits(TorchDispatchMode):
    """What of a pass the host would wait for, on a card."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("_local_scalar_dense", "is_nonzero", "aten.nonzero", "bincount")):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in ("llama", "gemma2", "gemma3_text", "qwen3", "phi3", "smollm3", "qwen3_5_text")),
        ("llama", {"dropout": 0.1}),
        ("llama", {"method": "orpo", "beta": 0.1}),
    ],
)
def test_nothing_within_a_micro_batch_waits_for_the_card(family, changes, tmp_path):
    rail = opened(save_tiny(tmp_path, family), **changes)
    with Waits() as waits:
        for part in rail._parts(batch((9, 9)), ()):
            rail._losses(part)[0].sum().backward()
    assert not waits.seen


@pytest.fixture
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny).eval().requires_grad_(False)


def replaced(model, forward):
    """Gives the norms of a model another forward, as Liger does."""
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.forward = MethodType(forward, module)


def right_norm(self, hidden):
    return torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], self.weight, self.variance_epsilon)


def wrong_norm(self, hidden):
    return 1.1 * right_norm(self, hidden)


def wrongly_teaching_norm(self, hidden):
    return right_norm(self, hidden).detach() + 0.5 * (hidden - hidden.detach())


def broken_norm(self, hidden):
    raise RuntimeError("Triton cannot compile this")


def test_a_change_that_computes_the_same_stays(model):
    assert models.change(model, lambda: replaced(model, right_norm))
    assert model.model.norm.forward.__func__ is right_norm


@pytest.mark.parametrize("forward", [wrong_norm, wrongly_teaching_norm, broken_norm])
def test_one_that_computes_anything_else_is_taken_back(forward, model):
    words = torch.arange(3, 20)[None]
    before = model(words).logits
    assert not models.change(model, lambda: replaced(model, forward))
    assert "forward" not in vars(model.model.norm) and torch.equal(model(words).logits, before)


def test_liger_is_taken_by_itself_only_where_it_helps(tiny, monkeypatch):
    """On a card, where it is installed, into layers that are not computed in groups."""
    patched, card = [], torch.device("cuda")

    def patch(base):
        patched.append(base)
        replaced(base, right_norm)

    monkeypatch.setattr(loading, "_optional", lambda name: SimpleNamespace(patch=patch))
    monkeypatch.setattr(loading, "find_spec", lambda name: name)
    dropping = recipe(dropout=0.1)
    grouped, open_one = (opened(tiny, dropout=dropout).model.get_base_model() for dropout in (0.0, 0.1))
    for base, wanted, device in (
        (grouped, recipe(), card),
        (open_one, dropping, torch.device("cpu")),
        (open_one, recipe(dropout=0.1, liger=False), card),
    ):
        assert not loading._takes_liger(base, wanted, device) and not patched
    assert loading._takes_liger(open_one, dropping, card) and patched == [open_one]
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    assert not loading._takes_liger(open_one, dropping, card)


def test_a_family_that_liger_does_not_know_is_computed_as_ever(tiny, monkeypatch):
    def patch(base):
        raise ModelUnusable("Liger has no kernels for models of the family tiny.")

    monkeypatch.setattr(loading, "_optional", lambda name: SimpleNamespace(patch=patch))
    monkeypatch.setattr(loading, "find_spec", lambda name: name)
    base = opened(tiny, dropout=0.1).model.get_base_model()
    assert not loading._takes_liger(base, recipe(dropout=0.1), torch.device("cuda"))


def test_it_is_told_what_computes(tiny, kernel):
    def told(**changes):
        return CpuRail().open(Job(tiny, recipe=recipe(dtype="bfloat16", **changes), dtype="bfloat16")).computed_by

    assert told() == "attention by torch, example by example, layers in groups, losses in chunks"
    assert told(attention="eager", dropout=0.1) == "attention by plain products, losses in chunks"
    kernel(plain)
    assert told() == "attention of all examples at once by torch's kernel, layers in groups, losses in chunks"


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3_text", "phi3", "smollm3"])
def test_on_a_card_the_kernel_gives_what_torchs_own_gives(family, tmp_path):
    folder, found = save_tiny(tmp_path, family), {}
    for kind in ("auto", "sdpa"):
        rail = CudaRail()
        rail.open(Job(folder, recipe=recipe(attention=kind, dtype="bfloat16"), dtype="bfloat16"))
        found[kind] = gradients(rail, [batch()])
        assert kind != "auto" or rail.model.config._attn_implementation in (attention.VARIABLE, attention.FLASH)
        rail.close()
    (loss, gradient), (other, theirs) = found.values()
    assert other == pytest.approx(loss, rel=1e-2)
    assert torch.nn.functional.cosine_similarity(gradient, theirs, dim=0) > 0.99


@pytest.mark.gpu
def test_on_a_card_nothing_within_a_micro_batch_waits(tiny):
    rail = CudaRail()
    rail.open(Job(tiny, recipe=recipe(dtype="bfloat16"), dtype="bfloat16"))
    rail.accumulate(batch(), 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rail._losses(batch())[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    rail.close()
