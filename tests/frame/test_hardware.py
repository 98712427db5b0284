"""Rates, memory and prices: a device that is less than its namesake never gets the namesake's numbers."""

import datetime

import pytest

from vicuna.hardware import GIB, GPUS, PRICES, find_gpu, find_price, peak_flops


@pytest.mark.parametrize(
    ("name", "tflops", "gib"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 79),
        ("NVIDIA H100 PCIe", 756, 79),
        ("NVIDIA H100 NVL", 835, 93),
        ("NVIDIA H200", 989, 139),
        ("NVIDIA H200 NVL", 835, 139),
        ("NVIDIA A100-SXM4-80GB", 312, 79),
        ("NVIDIA A100 80GB PCIe", 312, 79),
        ("NVIDIA A100-SXM4-40GB", 312, 39),
        ("NVIDIA GeForce RTX 4090", 165.2, 23),
        ("Tesla V100-SXM2-16GB", 125, 15),
        ("Tesla V100-SXM2-32GB", 125, 31),
        ("Tesla V100-PCIE-16GB", 112, 15),
        ("Tesla V100-PCIE-32GB", 112, 31),
        ("A100-80GB", 312, 79),  # as SkyPilot writes it
        ("H100", 989, 79),
    ],
)
def test_known_devices_have_their_own_numbers(name, tflops, gib):
    gpu = find_gpu(name)
    assert (gpu.tflops, gpu.memory) == (tflops, gib * GIB)
    assert peak_flops(name) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 480GB",
        "NVIDIA L40",
    ],
)
def test_of_other_devices_nothing_is_known(name):
    assert find_gpu(name) is peak_flops(name) is find_price(name, spot=False) is None


def test_a_price_is_of_a_known_gpu_and_has_a_date():
    for price in PRICES:
        assert price.gpu in GPUS
        assert datetime.date(2026, 1, 1) <= datetime.date.fromisoformat(price.date) <= datetime.date.today()


def test_there_is_one_price_of_a_kind_and_spot_is_the_cheaper():
    assert len({(price.gpu, price.spot) for price in PRICES}) == len(PRICES)
    both = [(find_price(name, spot=False), find_price(name, spot=True)) for name in GPUS]
    assert [name for name, (sure, spot) in zip(GPUS, both) if sure and spot and spot.usd >= sure.usd] == []
    assert any(sure and spot for sure, spot in both)


def test_a_price_is_found_by_the_name_that_torch_gives():
    assert find_price("NVIDIA A100-SXM4-80GB", spot=False).gpu == "A100 80GB"
    assert find_price("NVIDIA L4", spot=False) is None  # none was found
