import dataclasses

import pytest

from bp_core.errors import BadValue
from bp_core.settings import settings
from bp_export.config import ExportConfig, PushConfig, ServeConfig


@pytest.mark.parametrize("config", [ExportConfig, PushConfig, ServeConfig])
def test_every_setting_has_help(config):
    assert [setting.name for setting in settings(config)] == [field.name for field in dataclasses.fields(config)]
    assert all(setting.help.endswith(".") for setting in settings(config))


def test_what_only_a_gguf_can_have_is_refused_for_other_formats():
    with pytest.raises(BadValue, match="only the format gguf has use for it"):
        ExportConfig(format="merged", num_ctx=512)
    with pytest.raises(BadValue, match="at least 1"):
        ExportConfig(num_ctx=0)
    with pytest.raises(BadValue, match="between 0 and 65535"):
        ServeConfig(port=70_000)


def test_settings_of_choosing_by_size_and_of_the_matrix_must_have_an_effect():
    assert ExportConfig(quantization="auto", max_size="5GB").max_size == "5GB"
    with pytest.raises(BadValue, match="only the quantization auto chooses by size"):
        ExportConfig(max_size="5GB")
    with pytest.raises(BadValue, match="max_size is no size such as 5GB"):
        ExportConfig(quantization="auto", max_size="small")
    for unused in (dict(quantization="f16"), dict(format="merged")):
        with pytest.raises(BadValue, match="only a gguf below 8 bits has use for it"):
            ExportConfig(importance=False, **unused)


def test_llama_cpps_own_spelling_of_a_quantization_is_understood():
    assert ExportConfig(quantization="Q4_K_M").quantization == "q4_k_m"
    with pytest.raises(BadValue, match="must be one of"):
        ExportConfig(quantization="Q4_K_N")


def test_every_way_to_ask_for_ollama_is_one_setting():
    asked = [dict(ollama=True), dict(program="ollama"), dict(ollama_name="mine"), dict(program="jan", ollama=True)]
    assert all(ExportConfig(**settings).ollama for settings in asked)
    assert not ExportConfig(program="jan").ollama and not ExportConfig().ollama
    with pytest.raises(BadValue, match="the others gguf"):
        ExportConfig(program="ollama", format="merged")
