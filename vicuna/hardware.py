"""What the machine is and what it can do: peak rates by device name, for utilisation."""

import os
from collections.abc import Mapping

DENSE_BF16_TFLOPS: Mapping[str, float] = {
    "A100": 312.0,  # NVIDIA A100 datasheet (2020), without sparsity
    "H100 PCIe": 756.0,  # NVIDIA H100 datasheet (2023), PCIe card, without sparsity
    "H100 NVL": 835.0,  # NVIDIA H100 NVL datasheet (2024), one card, without sparsity
    "H100": 989.0,  # NVIDIA H100 datasheet (2023), SXM, without sparsity
    "H200 NVL": 835.0,  # NVIDIA H200 datasheet (2024), NVL card, without sparsity
    "H200": 989.0,  # NVIDIA H200 datasheet (2023), SXM, without sparsity
    "B200": 2250.0,  # NVIDIA Blackwell datasheet (2024), without sparsity
    "L40S": 362.0,  # NVIDIA L40S datasheet (2023), without sparsity
    "L4": 121.0,  # NVIDIA L4 datasheet (2023), without sparsity
    "A10G": 70.0,  # AWS G5 instance page (2021), without sparsity
    "RTX 4090": 165.2,  # NVIDIA Ada white paper (2022), fp32 accumulate, without sparsity
    "V100": 125.0,  # NVIDIA V100 datasheet (2017), SXM2, fp16 tensor cores; it has no bf16
    "V100 PCIE": 112.0,  # the same, PCIe card
}
"""Part of the device's name → peak dense half-precision rate in TFLOP/s."""
_LESSER = {"Laptop", "Mobile", "MIG", "D"}
"""Words in the names of devices that are less than their namesake: slower chips, and slices of one (MIG)."""


def peak_flops(device_name: str) -> float | None:
    """Peak dense half-precision FLOP/s of a device, or None where it is not in the table.

    Args:
        device_name: as `torch.cuda.get_device_name()` gives it.
    """
    if _words(device_name) & _LESSER:
        return None
    matches = [name for name in DENSE_BF16_TFLOPS if _words(name) <= _words(device_name)]
    return DENSE_BF16_TFLOPS[max(matches, key=len)] * 1e12 if matches else None


def cpu_count() -> int:
    """CPUs that this process may use (a container's or taskset's share, not the whole machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Let waiting threads of libgomp (torch's on Linux) sleep soon instead of spinning; call before torch is imported.

    Measured on two cores with the quickstart's model: alone the speed is the same; beside one other busy process
    training runs four times as fast. GOMP_SPINCOUNT in the environment wins.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _words(name: str) -> set[str]:
    return set(name.replace("-", " ").split())
