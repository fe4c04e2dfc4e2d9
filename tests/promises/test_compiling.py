"""Few shapes, one graph each: what `torch_compile` compiles, for every method, counted with a cheap backend.

In processes of their own: the checks of shapes that the tests install are no part of what is compiled.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import warm
from small_runs import forget_tasks, write_run

from hyperpelt import methods
from hyperpelt.config import load_run
from hyperpelt.data.buckets import Buckets
from hyperpelt.errors import UserError
from hyperpelt.training.compiled import check_compilable

HERE = Path(__file__).parent

TRACED = """
import importlib.util, sys, torch
sys.path[:0] = [{tests!r}, {promises!r}]
from small_models import make_bart, make_t5
from support import batch, spec_of, describe, tuned
from hyperpelt.backbones.quantised import quantise

one = dict(encoder_layers=1, decoder_layers=1) if {family!r} == "bart" else dict(num_layers=1, num_decoder_layers=1)
make = make_bart if {family!r} == "bart" else make_t5
packings = ["int8", "nf4"][: 1 + (importlib.util.find_spec("bitsandbytes") is not None)]
for name, packing in [*((name, None) for name in {names!r}), *(("lora", packing) for packing in packings)]:
    torch._dynamo.reset()
    backbone = make(**one)
    model = describe(tuned(backbone if packing is None else quantise(backbone, packing), spec_of(name))).train()
    rows = batch()
    if model.visual is not None:
        rows |= {{"visual": torch.randn(4, model.visual.cells, model.visual.dim)}}
    try:
        torch.manual_seed(0)  # of what a tuner drops out
        loss = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)(**rows).loss
        torch.manual_seed(0)
        torch.testing.assert_close(loss, model(**rows).loss)
    except Exception as problem:
        print("BROKEN", name, packing, type(problem).__name__, str(problem)[:1500].replace("\\n", " "))
"""

RECOMPUTED = """
import sys, torch
sys.path[:0] = [{tests!r}, {promises!r}]
from small_models import make_bart
from support import batch, spec_of, tuned
from hyperpelt.data.buckets import Buckets
from hyperpelt.training import compiled

def gradients(run):
    run(**batch()).loss.backward()
    made = [parameter.grad.clone() for _, parameter in model.trainable_parameters()]
    model.zero_grad()
    return made

compiled.BACKEND = "aot_eager"
model = tuned(make_bart(encoder_layers=1, decoder_layers=1), spec_of("hyperpelt")).train()
plain = gradients(model)
model.gradient_checkpointing_enable()
for one, other in zip(plain, gradients(compiled.CompiledForward(model, Buckets.of(32, 8))), strict=True):
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
"""

RUN = """
import json, sys, torch
from torch._dynamo.testing import CompileCounter
from hyperpelt.config import load_run
from hyperpelt.training import compiled, train

def run(*more):
    compiled.BACKEND = counter = CompileCounter()
    results = train(load_run(None, [*json.loads(sys.argv[1]), "overwrite=true", *more]), progress=False)
    return counter.frame_count, results["training"]["loss"]

print(json.dumps([run(), run("torch_compile=true"), run("torch_compile=true", "gradient_checkpointing=true")]))
"""


def finished(code: str, *arguments: str) -> str:
    done = subprocess.run([warm.python(), "-c", code, *arguments], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def compilable() -> list[str]:
    return [name for name in methods.names() if not methods.get(name).uncompilable]


def representative() -> list[str]:
    """Methods that together have every tuner with every source."""
    chosen, seen = [], set()
    for name in compilable():
        method = methods.get(name)
        kinds = {(p.tuner.type_name, method.source(source).type) for p in method.parts for source in p.sources}
        if not kinds <= seen:
            chosen.append(name)
            seen |= kinds
    return chosen


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_step_of_every_method_is_one_graph(family):
    """Every method on T5; on BART one for each tuner and source, as a trace takes two seconds. Packed weights, too."""
    names = compilable() if family == "t5" else representative()
    code = TRACED.format(tests=str(HERE.parent), promises=str(HERE), family=family, names=names)
    assert "BROKEN" not in (said := finished(code)), said


def test_a_compiled_step_that_recomputes_gives_the_same_gradients():
    finished(RECOMPUTED.format(tests=str(HERE.parent), promises=str(HERE)))


def test_a_run_over_real_lengths_compiles_no_more_graphs_than_it_has_length_buckets(tiny_tokenizer, tmp_path):
    overrides = [*write_run(tmp_path, tiny_tokenizer, num_layers=1), "max_steps=10", "length_window=8"]
    try:
        buckets = Buckets.of(32, 8)
        (none, loss), (graphs, same), (_, again) = json.loads(finished(RUN, json.dumps(overrides)).splitlines()[-1])
    finally:
        forget_tasks()
    assert buckets.most == 4
    assert none == 0
    assert 1 < graphs <= buckets.most
    assert same == pytest.approx(loss, rel=1e-4)
    assert again == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    ("longest", "sources", "targets"),
    [((128, 32), (32, 64, 96, 128), (8, 32)), ((100, 10), (32, 56, 80, 104), (8, 16)), ((8, 4), (8,), (8,))],
)
def test_length_buckets_are_quarters_of_the_longest(longest, sources, targets):
    buckets = Buckets.of(*longest)
    assert (buckets.sources, buckets.targets) == (sources, targets)
    assert buckets.most == len(sources) * len(targets) <= 8


def test_what_makes_no_one_graph_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="torch_compile needs loss: lm"):
        load_run(None, ["tasks=glue/rte", f"output_dir={tmp_path}", "torch_compile=true", "loss=ranking"])
    with pytest.raises(UserError, match="use_fsdp"):
        check_compilable(methods.get("lora"), sharded=True)
    with pytest.raises(UserError, match="'odd' is not compiled: it looks around"):
        check_compilable(SimpleNamespace(name="odd", uncompilable="it looks around."), sharded=False)
