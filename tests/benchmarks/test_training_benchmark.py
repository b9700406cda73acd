"""benchmarks/training.py: its loops, on a random miniature, and its arithmetic."""

import itertools
import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import training as benchmark


@pytest.fixture(scope="module")
def config(miniature, tmp_path_factory):
    pairs = benchmark.write_pictures(tmp_path_factory.mktemp("pairs"), 6, 32)
    return benchmark.config_of(str(miniature), pairs, resolution=32, train_batch_size=2, rank=2)


@pytest.mark.parametrize("changes", [{}, {"cache_latents": True}, {"mixed_precision": "bf16"}], ids=str)
def test_the_timed_steps_are_those_of_the_trainer(config, changes, tmp_path):
    from sdseg.training.loop import train

    config = replace(config, learning_rate=1e-2, **changes)
    steps = 4
    train(replace(config, output_dir=str(tmp_path / "run"), max_train_steps=steps, logging_steps=1))
    trained = [json.loads(line)["loss"] for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    loop = benchmark.ours(benchmark.prepared(config))
    timed = [loss for loss, _ in itertools.islice(loop, steps)]
    assert timed == pytest.approx(trained, rel=1e-6) and len(set(timed)) == steps


def test_the_reference_trains_the_same_layers_and_runs_its_text_encoder_each_step(config):
    run = benchmark.prepared(config)
    tokenizer, encoder = benchmark.text_encoder_of(run.base, torch.device("cpu"))
    shapes = []
    encoder.register_forward_hook(lambda _, __, out: shapes.append(tuple(out[0].shape)))
    before = {name: value.detach().clone() for name, value in run.lora.items()}
    loop = benchmark.reference(run, (tokenizer, encoder))
    losses = [loss for loss, _ in itertools.islice(loop, 3)]
    assert shapes == [(2, 77, run.base.unet.config.cross_attention_dim)] * 3
    assert all(0 < loss < 10 for loss in losses)
    changed = {name for name, value in run.lora.items() if not torch.equal(value, before[name])}
    # The lowest level has one position at 32 px, and attention over it is constant in queries and keys.
    lowest = {name for name in run.lora if ".mid_block." in name}
    constant = {name for name in lowest if ".attn1.to_q." in name or ".attn1.to_k." in name}
    assert changed | constant == set(run.lora) and len(changed) > 300


def test_flops_of_known_operations():
    def steps():
        weight = torch.randn(8, 8)
        query = torch.randn(1, 2, 4, 8, requires_grad=True)  # [B, heads, tokens, width]
        while True:
            torch.randn(5, 8) @ weight
            torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
            yield

    product, attention = 2 * 5 * 8 * 8, 2 * (2 * 2 * 4 * 4 * 8)  # heads times (query·key and weights·value)
    assert benchmark.flops_of(steps()) == product + 3 * attention


def test_summary_is_a_median_over_rounds_against_the_same_round():
    found = {
        "reference": {"seconds": [4.0, 8.0, 2.0], "waiting": [0.1, 0.3, 0.2], "flops": 40, "precision": "no"},
        "ours": {"seconds": [2.0, 2.0, 1.0], "waiting": [0.0, 0.0, 0.0], "flops": 10, "precision": "no"},
        "compiled": {"error": "no compiler"},
    }
    rows = benchmark.summary(found, "reference", 3, {"no": 20.0})
    assert rows["ours"] == {
        "seconds_per_step": 2.0, "images_per_second": 1.5, "ratio": 2.0, "ratio_range": [2.0, 4.0], "waiting": 0.0,
        "flops": 10, "share_of_peak": 0.25,
    }  # fmt: skip
    assert rows["reference"]["waiting"] == 0.2 and rows["reference"]["share_of_peak"] == 0.5
    assert rows["compiled"] == {"error": "no compiler"}


def test_figures_are_taken_out_of_a_dry_run():
    text = "largest train_batch_size that fits: 24\n...\nstep        0.52 s, peak device memory 7.31 GiB\n"
    figures = {"seconds_per_step": 0.52, "peak_device": 7.31, "largest_batch": 24}
    assert benchmark.dry_run_figures(text) == figures


def test_rows_of_a_gpu_on_any_device(config, monkeypatch):
    monkeypatch.setattr(benchmark, "LEAST_SECONDS", 0)
    monkeypatch.setattr(benchmark, "matmul_rate", lambda dtype, device: 1e9)
    options = Namespace(pairs=4, largest=2, rounds=1)
    rows = list(benchmark.measure_gpu(config.pretrained_model_name_or_path, 32, options))
    assert [(row["batch"], row["gradient_checkpointing"]) for row in rows] == [
        (1, False), (2, False), (1, True), (2, True)
    ]  # fmt: skip
    for row in rows:
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds_per_step"])
        # recomputed activations are no useful work: both count the same FLOPs a picture
        flops = row["share_of_peak"] * row["seconds_per_step"] * 1e9 / row["batch"]
        assert flops == pytest.approx(rows[0]["share_of_peak"] * rows[0]["seconds_per_step"] * 1e9, rel=1e-6)
    assert "not run (no GPU)" in benchmark.tables({}) and "| 32 | 2 | yes |" in benchmark.tables({"gpu": rows})
