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


def test_llama_cpps_own_spelling_of_a_quantization_is_understood():
    assert ExportConfig(quantization="Q4_K_M").quantization == "q4_k_m"
    with pytest.raises(BadValue, match="did you mean q4_k_m"):
        ExportConfig(quantization="Q4_K_N")
