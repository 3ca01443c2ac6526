"""The named sizes: as many parameters as the published models have."""

from __future__ import annotations

import jax
import pytest

from reasoning_jax import default
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, presets
from reasoning_jax.tpu import ceilings

# As their files hold them; of Gemma 3 from 4b on the part that reads text.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,
    "gemma-3-12b": 11_766_034_176,
    "gemma-3-27b": 27_009_346_304,
    "gpt-2": 124_439_808,
    "gpt-2-medium": 354_823_168,
    "gpt-2-large": 774_030_080,
    "gpt-2-xl": 1_557_611_200,
    "gpt-j-6b": 6_050_882_784,
}


def config(name):
    cfg = default.get_config().model
    cfg.preset = name
    return presets.model_config(cfg, 10)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_has_as_many_parameters(name):
    model_cfg = config(name)
    params = jax.eval_shape(lambda: decoder.init(jax.random.key(0), model_cfg))
    assert decoder.num_params(params) == PUBLISHED[name]
    # The planner's formula leaves norms and biases out.
    assert ceilings.num_params(model_cfg) == pytest.approx(PUBLISHED[name], rel=2e-3)


def test_every_size_is_published_or_our_own():
    own = {"tiny", "0.3m", "0.4m", "gpt-0.4m", "0.8m", "4m", "100m", "1b", "8b"}
    assert set(presets.SIZES) == own | set(PUBLISHED)


def test_a_published_model_brings_its_own_shape():
    cfg = default.get_config().model
    cfg.update(source="folder", preset="tiny", dtype="bfloat16", remat="full")
    published = config("qwen3-0.6b")
    found = presets.model_config(cfg, 151_000, published)
    assert (found.num_layers, found.qk_norm) == (28, True)
    assert (found.dtype, found.remat) == ("bfloat16", "full")
    with pytest.raises(
        UserError, match=r"source: folder, vocabulary: 151936, but .* 151937 tokens"
    ):
        presets.model_config(cfg, 151_937, published)
    cfg.num_layers = 3
    with pytest.raises(UserError, match=r"config\.model\.num_layers: model\.source has its own"):
        presets.model_config(cfg, 10, published)
