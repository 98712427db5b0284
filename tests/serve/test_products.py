"""Matrix products by oneDNN: what `nn.Linear` computes, for any number of rows, in bounded memory."""

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from vicuna.serve.engines.continuous import products  # noqa: E402

GROWTH = """
import psutil, torch
from vicuna.serve.engines.continuous.products import PackedLinear
torch.set_num_threads(1)
layer = PackedLinear(torch.nn.Linear(256, 1024, bias=False), keep=False)
with torch.inference_mode():
    layer(torch.zeros(2048, 256))
    before = psutil.Process().memory_info().rss
    for count in range(2, 1200, 2):
        layer(torch.zeros(count, 256))
print((psutil.Process().memory_info().rss - before) // 2**20)
"""

if not torch.backends.mkldnn.is_available():
    pytest.skip("torch was built without oneDNN", allow_module_level=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_any_number_of_rows_gives_what_the_linear_layer_gives(bias: bool, keep: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 40, bias=bias)
    packed = products.PackedLinear(linear, keep)
    with torch.inference_mode():
        for count in [0, 1, 2, 7, 8, 9, 31, 33, 64, 65, 100, 255, 256, 257, 300, 513]:
            rows = torch.randn(1, count, 24)
            assert torch.allclose(packed(rows), linear(rows), atol=1e-5), count


def test_few_different_numbers_of_rows_are_used() -> None:
    numbers = {products._even(min(count, products.MOST)) for count in range(1, 3000)}
    assert max(numbers) == products.MOST
    assert len(numbers) <= 16


def test_a_batch_of_ever_other_sizes_does_not_fill_the_memory() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, env=environment, check=True)
    assert int(run.stdout) < 150, "MiB; 600 buffers of their own would be well over 1,000"


def test_a_model_computes_the_same_with_either_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WORTH", 0.0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, 16)).eval()
    rows = torch.randn(1, 21, 16)
    with torch.inference_mode():
        before = model(rows)
        assert products.speed_up(model) > 0
        assert isinstance(model[0], products.PackedLinear)
        assert torch.allclose(model(rows), before, atol=1e-5)


def test_other_layers_stay_as_they_are() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 32, dtype=torch.bfloat16), torch.nn.LayerNorm(32))
    assert products.speed_up(model) == 1.0
    assert type(model[0]) is torch.nn.Linear
