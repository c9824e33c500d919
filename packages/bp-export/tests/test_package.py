import re
import subprocess
import sys
from pathlib import Path

import bp_export

README = Path(__file__).parents[1] / "README.md"


def test_public_names():
    assert bp_export.__all__ == [
        *("Engine", "Export", "GeneratedTokens", "GgufFacts", "Parity", "TrainedModel"),
        *("export", "gguf_facts", "prove", "quantize", "unpack_gguf", "verify", "write_merged"),
    ]
    assert all(getattr(bp_export, name) for name in bp_export.__all__)


def test_importing_is_light_and_converting_needs_no_torch(tmp_path, tiny_llama, llama_adapter):
    code = """
import sys
from pathlib import Path
import bp_export
assert not {"numpy", "gguf", "tokenizers"} & set(sys.modules), "import bp_export should load nothing"
from bp_export.config import ExportConfig
config = ExportConfig(quantization="f16", output=sys.argv[3])
bp_export.export(Path(sys.argv[1]), Path(sys.argv[2]), config)
heavy = {"torch", "transformers", "peft", "safetensors", "cyllama"} & set(sys.modules)
assert not heavy, heavy
"""
    command = [sys.executable, "-c", code, str(llama_adapter), str(tiny_llama), str(tmp_path / "m.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "m.gguf").is_file()


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys, tiny_llama, llama_adapter):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(example.splitlines()) <= 10
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m").symlink_to(tiny_llama)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "lora").symlink_to(llama_adapter)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert "q8_0" in capsys.readouterr().out
