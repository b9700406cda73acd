"""The trainer as launchers start it, stopped, killed and started again: processes, hosts, signals, checkpoints.

All of it on CPUs, over gloo. What a GPU's launchers do differently (NCCL, one device per process) is not seen here.
"""

import faulthandler
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from sdseg.imaging import read_image
from sdseg.training.__main__ import main
from sdseg.training.run_folder import CHECKPOINT_FILES, checkpoint_steps, latest_checkpoint
from tests.conftest import free_port
from tests.training.test_training import ROOT, lora_of, stats, write_pairs

PATIENCE = 540  # seconds; a machine with other work on it is slow, and what hangs ends here
TORCHRUN = ("-m", "torch.distributed.run")
ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 18)


def flags(**settings) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


def start(log: Path, arguments: list[str], *launcher: str) -> subprocess.Popen:
    """train.py as users start it, on the CPU, one thread a process.

    What it prints goes to a file: a pipe that nobody reads would fill up and stop it.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with open(log, "w") as file:
        command = [sys.executable, *launcher, "train.py", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)


def several(processes: int) -> tuple[str, ...]:
    if processes == 1:
        return ()
    return (*ACCELERATE, "--config_file", str(ROOT / "configs/accelerate/cpu.yaml"), f"--num_processes={processes}")


def ended(process: subprocess.Popen, code: int, log: Path) -> str:
    """What it printed, once it has ended with `code`."""
    try:
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
    printed = log.read_text()
    assert process.returncode == code, printed
    return printed


def until(condition, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def last_step(run: Path) -> int:
    """Of the last whole row of stats.jsonl; 0 where there is none."""
    file = run / "stats.jsonl"
    rows = [row for row in file.read_text().splitlines() if row.endswith("}")] if file.exists() else []
    return json.loads(rows[-1])["step"] if rows else 0


def starts(run: Path) -> list[tuple[int, str]]:
    """Processes and distributed_type of each start of a run."""
    rows = [json.loads(line) for line in (run / "environment.jsonl").read_text().splitlines()]
    return [(row["num_processes"], row["distributed_type"]) for row in rows]


def figures(run: Path) -> list[dict]:
    """The rows of stats.jsonl without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "waiting_for_data")} for row in stats(run)]


def assert_agree(run: Path, reference: Path, bound: float = 1e-4) -> None:
    """Losses, learning rates and the final adapter."""
    rows, wanted = stats(run), stats(reference)
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    assert [row["learning_rate"] for row in rows] == [row["learning_rate"] for row in wanted]
    loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(rows, wanted, strict=True))
    one, other = lora_of(run / "adapter"), lora_of(reference / "adapter")
    assert one.keys() == other.keys()
    weight = max((one[key] - other[key]).abs().max().item() for key in one)
    moved = max(value.abs().max().item() for key, value in other.items() if "lora_B" in key)
    print(f"largest difference of losses {loss:.1e}, of weights {weight:.1e}; the weights moved by {moved:.1e}")
    assert loss <= bound and weight <= bound and moved > 10 * bound


# ---------------------------------------------------------------------------------------------- processes and hosts


STEPS, GLOBAL_BATCH = 6, 12


def settings_of(output: Path, pairs: Path, processes: int) -> dict:
    """A run of the embedded miniature: 6 steps of 12 samples, whoever takes them."""
    return dict(
        pretrained_model_name_or_path="embedded", train_data_dir=pairs, output_dir=output, resolution=32,
        max_train_steps=STEPS, train_batch_size=GLOBAL_BATCH // processes, lr_warmup_steps=2, rank=8, lora_alpha=8,
        learning_rate=1e-3, checkpointing_steps=2, checkpoints_total_limit=9, logging_steps=1, report_to="none", seed=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_by(pairs, tmp_path_factory):
    """The folder of an undisturbed run by so many processes; each number trains once."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}

    def run(processes: int) -> Path:
        if processes not in runs:
            runs[processes] = folder / f"by-{processes}"
            arguments = flags(**settings_of(runs[processes], pairs, processes))
            if processes == 1:
                assert main(arguments) == 0
            else:
                log = folder / f"by-{processes}.log"
                ended(start(log, arguments, *several(processes)), 0, log)
        return runs[processes]

    return run


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_as_one(run_by, processes):
    one, run = run_by(1), run_by(processes)
    assert starts(one) == [(1, "NO")] and starts(run) == [(processes, "MULTI_CPU")]
    assert_agree(run, one)
    rates = [row["learning_rate"] for row in stats(run)]  # counted in optimiser steps, not once per process
    assert rates[2] == max(rates) == pytest.approx(1e-3) and 0 < rates[-1] < 2e-4
    assert json.loads((run / "run.json").read_text())["global_batch"] == GLOBAL_BATCH


@pytest.mark.slow
def test_two_processes_validate_as_one(pairs, tmp_path):
    """Figures and grid of the same weights: validation is shared among the processes. The learning rate is so small
    that the weights are those of the first step; 5 pictures cannot be halved."""
    held_out = write_pairs(tmp_path / "held_out", 5, first_seed=100)
    runs = []
    for processes in (1, 2):
        run, log = tmp_path / f"by-{processes}", tmp_path / f"by-{processes}.log"
        settings = settings_of(run, pairs, processes) | dict(max_train_steps=1, lr_warmup_steps=0, learning_rate=1e-9)
        settings |= dict(validation_data_dir=held_out, num_validation_images=5, validation_ensemble_size=2)
        ended(start(log, flags(**settings), *several(processes)), 0, log)
        runs.append(run)
    one, two = (next(row for row in stats(run) if any("validation" in key for key in row)) for run in runs)
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, abs=1e-5, nan_ok=True), key
    grids = [sorted((run / "validation").glob("*.png")) for run in runs]
    assert [path.name for path in grids[0]] == [path.name for path in grids[1]] != []
    for ours, theirs in zip(*grids, strict=True):
        difference = np.abs(read_image(ours).astype(int) - read_image(theirs))
        assert difference.max() <= 1  # rounding


def killed_after(step: int, whole: Path, folder: Path) -> Path:
    """What a run leaves that was killed after this checkpoint: no later one, no adapter, but rows of later steps."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "adapter")
    for later in checkpoint_steps(folder):
        if later > step:
            shutil.rmtree(folder / f"checkpoint-{later}")
    return folder


@pytest.mark.parametrize("processes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on(run_by, pairs, tmp_path, processes):
    """A checkpoint of two processes, with the same samples a step: the run is what one would do."""
    run = killed_after(4, run_by(2), tmp_path / "run")
    # a run of an earlier version keeps all in one file
    config = yaml.safe_load((run / "config.yaml").read_text()) | json.loads((run / "run.json").read_text())
    (run / "run.json").unlink()
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"output_dir": str(run)}))
    arguments = flags(**settings_of(run, pairs, processes))
    if processes == 1:
        assert main(arguments) == 0
    else:
        log = tmp_path / "log"
        assert "going on from" in ended(start(log, arguments, *several(processes)), 0, log)
    assert starts(run) == [(2, "MULTI_CPU"), (processes, "NO" if processes == 1 else "MULTI_CPU")]
    rows = [json.loads(line) for line in (run / "environment.jsonl").read_text().splitlines()]
    assert [row["first_step"] for row in rows] == [0, 4]
    assert rows[0]["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert_agree(run, run_by(1))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_hosts_train_as_one_process(run_by, pairs, tmp_path, launcher):
    """Two launchers, each with two processes; the second reaches the first at another loopback address than its own.
    They share the run folder."""
    run, port = tmp_path / "run", free_port()
    arguments = flags(**settings_of(run, pairs, processes=4))
    hosts = []
    for rank in (0, 1):
        if launcher == "torchrun":
            launcher_args = [
                *TORCHRUN,
                "--nnodes=2",
                f"--node_rank={rank}",
                "--nproc_per_node=2",
                f"--master_port={port}",
            ]
            launcher_args += ["--master_addr=127.0.0.2", f"--local_addr=127.0.0.{2 - rank}"]
        else:  # the shipped file, for 2 x 2 processes; ACCELERATE_USE_CPU keeps them off GPUs
            launcher_args = [*ACCELERATE, "--config_file", "configs/accelerate/two_hosts.yaml", "--num_processes=4"]
            launcher_args += [f"--machine_rank={rank}", "--main_process_ip=127.0.0.2", f"--main_process_port={port}"]
        log = tmp_path / f"host{rank}.log"
        hosts.append((start(log, arguments, *launcher_args), log))
    try:
        for process, log in hosts:
            ended(process, 0, log)
    finally:
        for process, _ in hosts:
            process.kill()
    assert starts(run) == [(4, "MULTI_CPU")]
    assert [log.read_text().count("adapter written") for _, log in hosts] == [1, 0]
    assert_agree(run, run_by(1))


MANY_GROUPS = """
import os
import torch
from torch.distributed import broadcast_object_list, destroy_process_group, init_process_group, new_group
from sdseg.training.processes import keep_process_group

init_process_group("gloo")
for _ in range(60):
    group = new_group()
    keep_process_group(group)
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(200, 200), process_group=group)
    network(torch.ones(4, 200)).sum().backward()
    broadcast_object_list([None], group=group)
    destroy_process_group(group)
    del group, network
print("ended", flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_processes_end_while_gloo_frees_its_tensors(tmp_path):
    """Without `keep_process_group` this hangs within a few dozen rounds."""
    (tmp_path / "many.py").write_text(MANY_GROUPS)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *several(2), str(tmp_path / "many.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("ended") == 2, done.stderr


def test_what_the_main_process_refuses_ends_all_of_them(pairs, tmp_path):
    """A pair that only the main process looks into. The shell prints each exit code, and hides it from the launcher."""
    folder = shutil.copytree(pairs, tmp_path / "broken")
    file = folder / "images/000003.png"
    file.write_bytes(file.read_bytes()[:200])
    shell = '"$0" "$@"; echo "process $RANK ends with $?" >&2'
    command = [sys.executable, *several(2), "--no-python", "bash", "-c", shell, sys.executable, "train.py"]
    command += flags(**settings_of(tmp_path / "run", folder, processes=2))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    printed = done.stderr.splitlines()
    assert {"process 0 ends with 2", "process 1 ends with 2"} <= set(printed), done.stderr
    [error] = [line for line in printed if line.startswith("error: ")]
    assert "images/000003.png" in error and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- signals


@pytest.fixture
def endless(miniature, pairs, tmp_path):
    """Arguments of a run into tmp_path/run that takes too long to end by itself, and saves only at its end."""
    settings = settings_of(tmp_path / "run", pairs, processes=6)
    return flags(
        **settings | dict(pretrained_model_name_or_path=miniature, max_train_steps=100_000, checkpointing_steps=100_000)
    )


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_saves_and_says_so(endless, tmp_path, processes):
    """Within a step, so that it is a matter of seconds; torchrun passes the signal on, and reports 1 for itself."""
    run, log = tmp_path / "run", tmp_path / "log"
    process = start(log, endless, *several(processes))
    until(lambda: last_step(run) >= 1, process, log)
    seen, sent = last_step(run), time.monotonic()
    process.send_signal(signal.SIGTERM)
    until(lambda: checkpoint_steps(run), process, log)
    saved = time.monotonic() - sent
    printed = ended(process, 128 + signal.SIGTERM if processes == 1 else 1, log)
    print(f"saved {saved:.1f} s after the signal, ended {time.monotonic() - sent:.1f} s after it")
    [step] = checkpoint_steps(run)
    # the bound in steps holds however slow the machine is, the one in seconds needs an idle one
    assert seen <= step <= seen + 3 and step == last_step(run)
    assert saved < 30 or processes == 1
    assert printed.count(f"stopped by SIGTERM at step {step}") == 1


@pytest.mark.slow
def test_sigterm_in_a_long_validation_saves_the_step_before_it(endless, pairs, tmp_path):
    """Else a launcher that kills what is left after 30 s would take what was trained since the last checkpoint."""
    run, log = tmp_path / "run", tmp_path / "log"
    held_out = write_pairs(tmp_path / "held_out", 12, first_seed=100)
    long = dict(validation_data_dir=held_out, validation_steps=2, num_validation_images=12)
    long |= dict(validation_ensemble_size=16, num_inference_steps=100)  # minutes, in parts of many seconds
    process = start(log, [*endless, *flags(**long)], *several(2))
    until(lambda: last_step(run) >= 2, process, log)
    process.send_signal(signal.SIGTERM)
    printed = ended(process, 1, log)
    assert checkpoint_steps(run) == [2] and printed.count("stopped by SIGTERM at step 2") == 1
    assert not list(run.glob("validation/*"))


def test_trainer_stops_when_its_launcher_is_gone(endless, tmp_path):
    """`accelerate launch` dies of SIGKILL without telling its child."""
    run, log = tmp_path / "run", tmp_path / "log"
    launcher = start(log, endless, *ACCELERATE, "--cpu", "--num_processes=1")
    until(lambda: last_step(run) >= 1, launcher, log)
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + PATIENCE
    while "stopped by SIGTERM" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "stopped by SIGTERM" in log.read_text() and len(checkpoint_steps(run)) == 1


# ---------------------------------------------------------------------------------------------- resume, bit for bit


@pytest.fixture
def tiny(miniature, pairs, tmp_path):
    """Arguments of a run into tmp_path/NAME of the random miniature: 5 steps of 4 of the 18 pairs."""

    def build(name: str, **changes) -> list[str]:
        settings = settings_of(tmp_path / name, pairs, processes=3)
        settings |= dict(pretrained_model_name_or_path=miniature, max_train_steps=5)
        return flags(**settings | changes)

    return build


ACCUMULATED = dict(train_batch_size=2, gradient_accumulation_steps=2)
CACHED = dict(cache_latents="true", cached_variants=2)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(dict(validation_data_dir="held_out", validation_steps=3), id="validated"),
        # its parts are those of the next and of the last one
        pytest.param(CACHED | ACCUMULATED, id="cache in memory, accumulated", marks=pytest.mark.slow),
        pytest.param(CACHED | dict(latent_cache_dir="latents", use_ema="true"), id="cache on disk, average"),
        pytest.param(dict(train_data_dir="layers", dataloader_num_workers=2), id="on the fly, loader workers"),
        pytest.param(dict(pixel_loss_share=0.5, use_ema="true") | ACCUMULATED, id="second stage, average, accumulated"),
    ],
)
def test_resume_is_bit_identical(tiny, tmp_path, changes):
    """From a checkpoint in mid-epoch, after which rows were written that come again."""
    from tests.synth_data.test_synth_recompose import VARIED, write_set

    if "validation_data_dir" in changes:
        held_out = write_pairs(tmp_path / "held_out", 1, first_seed=100)
        changes = changes | dict(validation_data_dir=held_out, validation_ensemble_size=2)
    if "train_data_dir" in changes:
        changes = changes | dict(train_data_dir=write_set(tmp_path / "layers", VARIED))
    if "latent_cache_dir" in changes:
        changes = changes | dict(latent_cache_dir=tmp_path / "latents")
    assert main(tiny("whole", **changes)) == 0
    run = killed_after(2, tmp_path / "whole", tmp_path / "run")
    (run / "checkpoint-9").mkdir()  # not whole: must never be chosen
    assert main(tiny("run", **changes)) == 0
    assert figures(run) == figures(tmp_path / "whole")
    assert len({row["loss"] for row in figures(run) if "loss" in row}) == 5
    files = ["adapter/adapter_model.safetensors", *(f"checkpoint-5/{name}" for name in CHECKPOINT_FILES)]
    for name in files:
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_mean_loss_goes_on_where_it_was(tiny, tmp_path):
    """Rows every third step, a checkpoint every second: the mean of steps 1 to 3 needs what the checkpoint at 2 saw."""
    assert main(tiny("whole", logging_steps=3)) == 0
    run = killed_after(2, tmp_path / "whole", tmp_path / "run")
    assert main(tiny("run", logging_steps=3)) == 0
    assert figures(run) == figures(tmp_path / "whole")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """One bit of a value: the file is as long as before and can be read."""
    content = bytearray(file.read_bytes())
    content[-5] ^= 8
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def test_a_damaged_checkpoint_is_passed_over(tiny, tmp_path, capsys):
    """As a full disk or a power cut leaves it; where none is whole, the run does not silently start over."""
    changes = dict(use_ema="true", max_train_steps=4, checkpointing_steps=1)
    assert main(tiny("whole", checkpoints_total_limit=2, **changes)) == 0
    harm = [(truncate, "lora"), (flip, "optimizer"), (empty, "ema"), (flip, "ema"), (truncate, "state"), (None, "ema")]
    for case, (change, name) in enumerate(harm):
        run = shutil.copytree(tmp_path / "whole", tmp_path / f"run{case}")
        file = next((run / "checkpoint-4").glob(f"{name}.*"))
        change(file) if change else file.unlink()
        assert latest_checkpoint(run) == 3, file
    shutil.rmtree(run / "adapter")
    capsys.readouterr()
    arguments = tiny(run.name, checkpoints_total_limit=1, **changes)
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "checkpoint-4 is not intact" in printed.err and f"going on from {run / 'checkpoint-3'}" in printed.out
    assert figures(run) == figures(tmp_path / "whole") and checkpoint_steps(run) == [4]
    written = "adapter/adapter_model.safetensors"
    assert (run / written).read_bytes() == (tmp_path / "whole" / written).read_bytes()

    truncate(run / "checkpoint-4" / "lora.safetensors")
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "no intact checkpoint" in error and "--overwrite_output_dir" in error
    assert checkpoint_steps(run) == [4] and latest_checkpoint(tmp_path / "run0") == 3


def test_a_run_killed_before_its_settings_were_written_is_begun_again(tiny, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / ".0123456789abcdef0123456789abcdef.tmp").write_text("half a fi")
    assert main(tiny("run", max_train_steps=2)) == 0 and last_step(run) == 2


# ---------------------------------------------------------------------------------------------- killed, and again


def assert_whole(folder: Path) -> None:
    """A checkpoint that is looked at by name can be read."""
    assert json.loads((folder / "state.json").read_text())["step"] == int(folder.name.removeprefix("checkpoint-"))
    for name in ("lora", "optimizer", "ema"):
        assert load_file(folder / f"{name}.safetensors"), folder


def life(arguments: list[str], log: Path) -> None:
    """One process of the trainer, printing into a file."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    multiprocessing.set_start_method("fork", force=True)  # of its loader's processes, as where train.py is the program
    sys.exit(main(arguments))


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tiny, tmp_path, monkeypatch):
    """SIGKILL, five times while starting or soon after and else in training: the run ends as an undisturbed one.

    The processes are forked from one that has imported what takes long, so that most of their time is training.
    """
    faulthandler.cancel_dump_traceback_later()  # every wait below has its own end; together they may take longer
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [__name__, "accelerate", "datasets", "diffusers.optimization", "peft", "sdseg.model"]
    )
    changes = dict(max_train_steps=240, checkpointing_steps=1, checkpoints_total_limit=2, use_ema="true")
    changes |= CACHED | ACCUMULATED | dict(dataloader_num_workers=1)

    def begin(name: str, log: Path):
        latents = tmp_path / f"latents-{name}"
        process = context.Process(target=life, args=(tiny(name, latent_cache_dir=latents, **changes), log))
        process.start()
        return process

    def end(process, log: Path) -> str:
        process.join(PATIENCE)
        assert process.exitcode == 0, log.read_text()
        return log.read_text()

    log = tmp_path / "whole.log"
    end(begin("whole", log), log)
    run, rng, half_saved, before = tmp_path / "run", random.Random(0), 0, 0
    blind = set(rng.sample(range(20), 5))
    for number in range(20):
        log = tmp_path / f"life-{number:02}.log"
        process = begin("run", log)
        if number in blind:
            process.join(rng.uniform(0, 3))
        else:
            wanted, deadline = before + rng.randint(1, 6), time.monotonic() + PATIENCE
            while last_step(run) < wanted:
                assert process.is_alive() and time.monotonic() < deadline, log.read_text()
                time.sleep(0.005)
            process.join(rng.uniform(0, 0.2))
        process.kill()
        process.join()
        assert not (run / "adapter").exists(), "the run ended before it was killed 20 times"
        printed = log.read_text() if log.exists() else ""
        # (a loader's process that outlives the trainer for a moment may print that its connection is gone)
        assert "Error" not in printed.replace("ConnectionResetError", "") and "error: " not in printed, printed
        assert "going on from" not in printed or f"checkpoint-{before}\n" in printed, printed
        half_saved += any(run.glob(".checkpoint-*.partial"))
        after = latest_checkpoint(run)
        assert after >= before and (number in blind or after >= wanted - 1), (
            printed
        )  # a step's row comes before its save
        for step in checkpoint_steps(run):
            assert_whole(run / f"checkpoint-{step}")
        before = after
    print(f"killed 20 times up to step {before}, {half_saved} times with a checkpoint half written")
    log = tmp_path / "last.log"
    assert f"going on from {run / f'checkpoint-{before}'}" in end(begin("run", log), log)
    assert figures(run) == figures(tmp_path / "whole")
    written = "adapter/adapter_model.safetensors"
    assert (run / written).read_bytes() == (tmp_path / "whole" / written).read_bytes()
    assert len(list((run).glob("checkpoint-*"))) == 2 and not list(run.glob(".checkpoint-*"))
