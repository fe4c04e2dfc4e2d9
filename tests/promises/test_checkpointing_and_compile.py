"""Promise 7: activation checkpointing and torch.compile(fullgraph=True) change nothing but time and memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
import warm
from support import METHODS, batch, small, tuned


def losses_and_gradients(model, batches):
    """Both forwards come before either backward, so that a recomputation must find the pass of its own forward."""
    total = sum(model(**rows).loss for rows in batches)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.trainable_parameters()}
    for _, parameter in model.trainable_parameters():
        parameter.grad = None
    return total.detach(), gradients


@pytest.mark.parametrize("method", METHODS)
def test_activation_checkpointing_changes_nothing(backbone, method):
    model = tuned(backbone, small(method)).train()
    batches = [batch(seed=1), {**batch(seed=2), "task_ids": torch.tensor([2, 2, 2, 2])}]
    plain_loss, plain = losses_and_gradients(model, batches)
    model.gradient_checkpointing_enable()
    loss, recomputed = losses_and_gradients(model, batches)
    assert torch.equal(loss, plain_loss)
    for name, gradient in plain.items():
        # The order in which two backward passes add up may differ, nothing else.
        assert (recomputed[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-9, name


COMPILED = """
import sys, torch
sys.path[:0] = [{tests!r}, {promises!r}]
from small_models import make_bart, make_t5
from support import batch, spec_of, tuned

backbone = make_bart() if {family!r} == "bart" else make_t5()
model = tuned(backbone, spec_of({method!r})).train()
compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
mixtures = [[0, 1, 2, 0], [1, 1, 1, 1], [2, 0, 1, 1]]
batches = [{{**batch(seed=s), "task_ids": torch.tensor(t)}} for s, t in enumerate(mixtures)]
counter = torch._dynamo.utils.counters
for rows in batches:
    grads = []
    for run in (model, compiled):
        output = run(**rows)
        output.loss.backward()
        grads.append((output.loss.detach(), [p.grad.clone() for _, p in model.trainable_parameters()]))
        model.zero_grad(set_to_none=True)
    (plain_loss, plain), (loss, made) = grads
    torch.testing.assert_close(loss, plain_loss, atol=1e-6, rtol=1e-6)
    for a, b in zip(plain, made):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
print("graphs", counter["stats"]["unique_graphs"])
"""


# A process of its own: the checks of shapes that the tests install are no part of what is compiled.
@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((kind, "hyperpelt") for kind in ("t5", "bart")),
        ("t5", "unipelt"),
        ("bart", "lora"),
        ("t5", "apt"),
        ("bart", "adalora"),
    ],
)
def test_compiled_in_one_graph_gives_the_same_loss_and_gradients(family, method):
    here = Path(__file__).parent
    code = COMPILED.format(tests=str(here.parent), promises=str(here), family=family, method=method)
    done = subprocess.run([warm.python(), "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("graphs 1"), done.stdout
