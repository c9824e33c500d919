import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple

import numpy as np
import pytest

from bp_core import folders
from bp_core.errors import AdapterUnusable, BadValue, DiskFull, FileMissing, NotProven, OutputUnusable
from bp_export import Engine, export, gguf_facts, output_paths, quantize
from bp_export.config import ExportConfig
from bp_export.gguf.reader import GgufFile
from bp_export.pipeline import model_name
from bp_export.proof import prover

SELDOM = [pytest.param(name, marks=pytest.mark.slow) for name in ("f16", "bf16", "q6_k", "q5_k_m")]


@pytest.fixture
def home(tmp_path, llama_adapter):
    """An output folder with an adapter in it, as training leaves it."""
    shutil.copytree(llama_adapter, tmp_path / "lora")
    folders.write_manifest(tmp_path / "lora")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("quantization", ["q8_0", "q4_k_m", *SELDOM])
def test_every_quantisation_is_exported_proven_and_loads(quantization, home, tiny_llama, llama_reference, samples):
    config = ExportConfig(quantization=quantization)
    seen = []
    done = export(home / "lora", tiny_llama, config, reference=llama_reference, samples=samples, notify=seen.append)
    file = f"tiny-llama-{quantization}"
    assert names(home) == ["lora", f"{file}.Modelfile", f"{file}.gguf", f"{file}.parity.json"]
    assert done.path.name == f"tiny-llama-{quantization}.gguf"
    assert (done.format, done.quantization, done.bytes) == ("gguf", quantization, done.path.stat().st_size)
    assert done.parity.proven
    report = json.loads(done.parity_path.read_text(encoding="utf-8"))
    assert (report["proven"], report["sha256"]) == (True, folders.digest(done.path))
    with Engine(done.path, context=256, gpu=False) as engine:
        assert engine.generate(samples[0].tokens, 4).tokens
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages[:2] == ["convert", "prove f16"]
    assert all(0 < progress.done <= progress.total for progress in seen if progress.total), "0: unknown"
    for stage in {"convert", "quantize"} & set(stages):
        told = [(progress.done, progress.total) for progress in seen if progress.stage == stage]
        assert told[-1] == (len(GgufFile(done.path).tensors),) * 2, "a step for each tensor"
    assert {progress.done for progress in seen if progress.stage == "convert"} == set(range(1, told[-1][1] + 1))


@pytest.fixture
def training_rows():
    random = np.random.default_rng(0)
    return random.integers(3, 40_000, (8, 64)).tolist()


def test_with_training_rows_an_importance_matrix_is_used_and_written(
    home, tiny_llama, llama_reference, samples, training_rows
):
    given = dict(reference=llama_reference, samples=samples, training_rows=training_rows)
    plain = export(home / "lora", tiny_llama, ExportConfig(importance=False, output=str(home / "plain.gguf")), **given)
    weighed = export(home / "lora", tiny_llama, ExportConfig(output=str(home / "weighed.gguf")), **given)
    assert (plain.importance_path, plain.parity.importance_tokens) == (None, 0)
    assert (weighed.importance_path, weighed.parity.importance_tokens) == (home / "weighed.imatrix", 8 * 64)
    stored = GgufFile(weighed.importance_path)
    counts = {int(stored.array(name).reshape(-1)[0]) for name in stored.tensors if name.endswith(".counts")}
    sums = {name.removesuffix(".in_sum2"): name for name in stored.tensors if name.endswith(".in_sum2")}
    columns = {layer: stored.array(name).reshape(-1) / (8 * 64) for layer, name in sums.items()}
    layers = {name for name in GgufFile(weighed.path).tensors if name.startswith("blk.") and "norm" not in name}
    assert columns.keys() == layers and counts == {8 * 64}
    assert all((values > 0).all() for values in columns.values())
    assert plain.bytes == weighed.bytes and plain.sha256 != weighed.sha256
    again = home / "again.gguf"
    f16 = export(home / "lora", tiny_llama, ExportConfig(quantization="f16"), **given).path
    quantize(f16, again, "q4_k_m", importance=columns)
    assert again.read_bytes() == weighed.path.read_bytes(), "the matrix in the file is the one that was used"


def test_too_few_rows_make_no_matrix(home, tiny_llama, llama_reference, samples):
    given = dict(reference=llama_reference, samples=samples, training_rows=[[5, 6, 7]])
    assert export(home / "lora", tiny_llama, ExportConfig(), **given).importance_path is None


def test_auto_takes_the_smallest_that_keeps_what_was_learned(home, tiny_llama, llama_reference, samples):
    done = export(
        home / "lora", tiny_llama, ExportConfig(quantization="auto"), reference=llama_reference, samples=samples
    )
    *lost, taken = done.parity.trials
    assert taken.kept and not any(trial.kept for trial in lost)
    assert (done.quantization, done.parity.quantization, done.bytes) == (taken.quantization,) * 2 + (taken.bytes,)
    sizes = [trial.bytes for trial in done.parity.trials]
    assert sizes == sorted(sizes) and done.parity.proven
    assert done.path.name == "tiny-llama-auto.gguf"
    report = json.loads(done.parity_path.read_text(encoding="utf-8"))
    assert [trial["quantization"] for trial in report["trials"]] == [t.quantization for t in done.parity.trials]


def test_auto_within_a_size_that_nothing_fits_names_what_does(home, tiny_llama, llama_reference, samples):
    config = ExportConfig(quantization="auto", max_size="1MB")
    with pytest.raises(NotProven, match="no format of up to 1MB keeps what was learned") as caught:
        export(home / "lora", tiny_llama, config, reference=llama_reference, samples=samples)
    assert caught.value.fix.startswith("Use --quantization q") and caught.value.checks
    assert names(home) == ["lora"]


def test_where_too_much_is_lost_the_error_names_the_smallest_that_keeps_it(
    home, tiny_llama, llama_reference, samples, monkeypatch
):
    monkeypatch.setitem(prover.GATES, "q3_k_m", 1e-9)
    config = ExportConfig(quantization="q3_k_m")
    with pytest.raises(NotProven) as caught:
        export(home / "lora", tiny_llama, config, reference=llama_reference, samples=samples)
    assert "q3_k_m loses too much of what was learned: --quantization q" in caught.value.fix


def test_another_llama_cpp_loads_the_file(home, tiny_llama):
    pytest.importorskip("xllamacpp")
    path = export(home / "lora", tiny_llama, ExportConfig()).path
    code = """
        import json, sys
        import xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path = sys.argv[1]
        params.n_ctx, params.n_predict, params.warmup = 256, 4, False
        params.cpuparams.n_threads = 1
        server = xllamacpp.Server(params)
        answer = server.handle_completions({"prompt": "Hello", "max_tokens": 4, "temperature": 0})
        print(json.dumps(answer["choices"][0]["text"] != ""))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip().splitlines()[-1:] == ["true"], done.stderr[-2000:]


def test_an_unproven_file_is_kept_under_a_name_that_says_so_and_the_earlier_one_stays(
    home, tiny_llama, llama_reference, samples, monkeypatch
):
    target = home / "tiny-llama-q8_0.gguf"
    target.write_bytes(b"an earlier, good file")
    report = target.with_suffix(".parity.json")
    folders.write_json(report, {"sha256": folders.digest(target), "bytes": target.stat().st_size})
    config = ExportConfig(quantization="q8_0", overwrite=True)

    class Other:
        def logits(self, tokens, *, adapter=True):
            return -llama_reference.logits(tokens, adapter=adapter)

    with pytest.raises(NotProven, match="f16 divergence") as caught:
        export(home / "lora", tiny_llama, config, reference=Other(), samples=samples)
    assert target.read_bytes() == b"an earlier, good file"
    file = "tiny-llama-q8_0"
    kept = home / f"{file}.unproven.gguf"
    unproven = [f"{file}.unproven.gguf", f"{file}.unproven.parity.json"]
    assert names(home) == ["lora", f"{file}.gguf", f"{file}.parity.json", *unproven]
    assert caught.value.where == str(kept) and gguf_facts(kept).architecture == "llama"
    (row,) = (row for row in caught.value.checks if row["name"] == "f16 divergence")
    assert row["times"] == pytest.approx(row["measured"] / row["allowed"], rel=1e-2) and row["times"] > 100
    report = json.loads((home / unproven[1]).read_text(encoding="utf-8"))
    assert (report["proven"], report["accepted"], report["file"]) == (False, False, kept.name)
    with pytest.raises(NotProven):
        export(home / "lora", tiny_llama, config, reference=Other(), samples=samples)
    assert names(home) == ["lora", f"{file}.gguf", f"{file}.parity.json", *unproven], (
        "the file of an earlier refusal makes way"
    )
    export(home / "lora", tiny_llama, config, reference=llama_reference, samples=samples)
    assert names(home) == ["lora", f"{file}.Modelfile", f"{file}.gguf", f"{file}.parity.json", *unproven]
    assert gguf_facts(target).architecture == "llama"


def test_an_unproven_file_is_handed_over_where_that_is_asked_for(home, tiny_llama, llama_reference, samples):
    mine = home / "tiny-llama-f16.unproven.gguf"
    mine.write_bytes(b"a file of the user's")

    class Other:
        def logits(self, tokens, *, adapter=True):
            return -llama_reference.logits(tokens, adapter=adapter)

    with pytest.raises(NotProven) as caught:
        export(home / "lora", tiny_llama, ExportConfig(quantization="f16"), reference=Other(), samples=samples)
    assert mine.read_bytes() == b"a file of the user's"
    assert caught.value.where == str(home / "tiny-llama-f16.unproven-2.gguf")
    config = ExportConfig(quantization="f16", accept_unproven=True)
    done = export(home / "lora", tiny_llama, config, reference=Other(), samples=samples)
    assert done.path == home / "tiny-llama-f16.gguf"
    assert done.parity.accepted and not done.parity.proven
    report = json.loads(done.parity_path.read_text(encoding="utf-8"))
    assert (report["proven"], report["accepted"]) == (False, True)
    with pytest.raises(BadValue, match="only GGUF files are proven"):
        ExportConfig(format="merged", accept_unproven=True)


@pytest.mark.parametrize("stage", ["convert", "prove f16", "quantize", "prove final"])
def test_an_interruption_leaves_nothing(stage, home, tiny_llama, llama_reference, samples):
    def stop(progress):
        if progress.stage == stage and progress.done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(home / "lora", tiny_llama, ExportConfig(), reference=llama_reference, samples=samples, notify=stop)
    assert names(home) == ["lora"]


EXPORT = """
    import signal, sys
    from pathlib import Path
    from bp_export.config import ExportConfig
    from bp_export import export

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background ignores it
    lora, base = map(Path, sys.argv[1:3])
    export(lora, base, ExportConfig(format=sys.argv[3]), notify=lambda progress: print(progress.stage, flush=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send SIGINT to one process")
@pytest.mark.parametrize("format, stage", [("gguf", "convert"), ("gguf", "quantize"), ("merged", "merge")])
def test_ctrl_c_in_the_terminal_leaves_nothing(format, stage, home, tiny_llama, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    command = [sys.executable, "-c", textwrap.dedent(EXPORT), str(home / "lora"), str(tiny_llama), format]
    pipe, environment = subprocess.PIPE, {**os.environ, "TMPDIR": str(scratch)}
    child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)
    with child:
        while (line := child.stdout.readline()) and line.strip() != stage:
            pass
        assert names(home) != ["lora"], "a draft is under way"
        os.killpg(child.pid, signal.SIGINT)  # llama.cpp's process gets it, too
        _, said = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT, said
    assert (names(home), names(scratch)) == (["lora"], [])
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_the_other_formats(home, tiny_llama):
    merged = export(home / "lora", tiny_llama, ExportConfig(format="merged"))
    copied = export(home / "lora", tiny_llama, ExportConfig(format="lora", output=str(home / "copy")))
    assert (merged.path, merged.format) == (home / "tiny-llama-merged", "merged")
    assert folders.damage(merged.path) is None
    assert folders.damage(copied.path) is None
    assert names(copied.path) == sorted([*names(home / "lora"), "tokenizer.json", "tokenizer_config.json"])
    assert copied.bytes > 100_000
    with pytest.raises(OutputUnusable):
        export(home / "lora", tiny_llama, ExportConfig(format="lora", output=str(home / "copy")))


def test_what_is_there_is_replaced_only_if_asked(home, tiny_llama):
    mine = home / "mine"
    mine.mkdir()
    for format, place in [("gguf", home / "m.gguf"), ("gguf-lora", home / "l.gguf"), ("merged", home / "merged")]:
        settings = {"format": format, "quantization": "f16", "output": str(place)}
        export(home / "lora", tiny_llama, ExportConfig(**settings))
        before = place.stat().st_ino
        with pytest.raises(OutputUnusable) as caught:
            export(home / "lora", tiny_llama, ExportConfig(**settings))
        assert "--overwrite" in caught.value.fix and place.stat().st_ino == before
        there = []
        again = ExportConfig(**settings, overwrite=True)
        done = export(home / "lora", tiny_llama, again, notify=lambda _: there.append(place.stat().st_ino))  # noqa: B023
        assert done.path == place and place.stat().st_ino != before
        assert set(there[:-1]) == {before}, "the earlier one stays until the new one is whole"
    with pytest.raises(OutputUnusable, match="not as an export wrote it"):
        export(home / "lora", tiny_llama, ExportConfig(format="merged", output=str(mine), overwrite=True))
    (home / "lora" / "adapter_config.json").unlink()
    with pytest.raises(AdapterUnusable):
        export(home / "lora", tiny_llama, ExportConfig(**settings, overwrite=True))
    assert folders.damage(place) is None, "the earlier one came back"


def test_where_a_gguf_goes(home, tiny_llama):
    config = ExportConfig(quantization="f16", output=str(home / "sub" / "My Model ü.gguf"))
    assert export(home / "lora", tiny_llama, config).path == home / "sub" / "My Model ü.gguf"
    config = ExportConfig(quantization="f16", output=str(home / "folder"))
    assert export(home / "lora", tiny_llama, config).path == home / "folder" / "tiny-llama-f16.gguf"
    (home / "x.gguf").mkdir()
    with pytest.raises(OutputUnusable):
        export(home / "lora", tiny_llama, ExportConfig(output=str(home / "x.gguf")))


def test_a_hub_snapshot_is_called_after_its_repository(tmp_path):
    folder = tmp_path / "models--HuggingFaceTB--SmolLM2-135M" / "snapshots" / "0a1b2c"
    folder.mkdir(parents=True)
    assert model_name(folder) == "SmolLM2-135M"


def test_no_room_is_said_before_anything_is_written(home, tiny_llama, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(output_paths.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    for format in ("gguf", "merged"):
        with pytest.raises(DiskFull, match=r"0\.1 GB are needed"):
            export(home / "lora", tiny_llama, ExportConfig(format=format))
    assert names(home) == ["lora"]


def test_what_is_missing_or_damaged(home, tiny_llama):
    with pytest.raises(FileMissing):
        export(home / "lora", home / "nowhere", ExportConfig())
    with pytest.raises(AdapterUnusable):
        export(home / "nowhere", tiny_llama, ExportConfig())
    (home / "lora" / "contract.json").write_text("{}", encoding="utf-8")
    for format in ("gguf", "merged", "lora"):
        with pytest.raises(AdapterUnusable):
            export(home / "lora", tiny_llama, ExportConfig(format=format))
    assert names(home) == ["lora"]


@pytest.mark.slow
def test_the_real_model_from_end_to_end(tmp_path, smol, helpers):
    adapter = helpers.save_adapter(smol, tmp_path / "lora", strength=0.01, targets=["q_proj", "v_proj", "down_proj"])
    reference = helpers.Reference(smol, adapter)
    tokenizer = helpers.tokenizer(smol)
    sample = helpers.make_sample(tokenizer, "What is the capital of France?", "The capital of France is Paris.")
    done = export(adapter, smol, ExportConfig(), reference=reference, samples=[sample])
    assert done.path.name == "smollm2-135m-q4_k_m.gguf"
    assert done.parity.types["Q5_0"] > done.parity.types["Q4_K"], "its rows are not multiples of 256"
    assert done.parity.formats.startswith("q4_k_m on this model is 7") and "multiples of 256" in done.parity.formats
    with Engine(done.path, context=256, gpu=False) as engine:
        assert "Paris" in engine.generate(sample.prompt, 30).text
