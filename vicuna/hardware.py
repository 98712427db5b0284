"""What machines are and cost: memory, peak rate and power of GPUs by name, and what an hour of them is sold for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What computes: one GPU, or the CPU."""

    name: str
    """As in `GPUS`, as its driver calls it, or "cpu"."""
    memory: int
    """Bytes."""
    tflops: float | None = None
    """Peak dense rate in bfloat16 (float16 on the V100, which has no bfloat16), in TFLOP/s; None where unknown."""
    watts: float | None = None
    """Most power that it takes; None where unknown."""


GPUS: Mapping[str, Device] = {
    each.name: each
    for each in (
        # Memory in GiB as the driver reports it, rounded down; rates without sparsity, and power, are NVIDIA's:
        Device("A100", 39 * GIB, 312.0, 400.0),  # A100 (2020), 40 GB
        Device("A100 80GB", 79 * GIB, 312.0, 400.0),  # the same
        Device("H100 PCIe", 79 * GIB, 756.0, 350.0),  # H100 (2023), PCIe card
        Device("H100 NVL", 93 * GIB, 835.0, 400.0),  # H100 NVL (2024), one card
        Device("H100", 79 * GIB, 989.0, 700.0),  # H100 (2023), SXM
        Device("H200 NVL", 139 * GIB, 835.0, 600.0),  # H200 (2024), NVL card
        Device("H200", 139 * GIB, 989.0, 700.0),  # H200 (2024), SXM
        Device("B200", 178 * GIB, 2250.0, 1000.0),  # Blackwell (2024)
        Device("L40S", 44 * GIB, 362.0, 350.0),  # L40S (2023)
        Device("L4", 22 * GIB, 121.0, 72.0),  # L4 (2023)
        Device("A10G", 22 * GIB, 70.0, 300.0),  # AWS G5 instance page (2021)
        Device("RTX 4090", 23 * GIB, 165.2, 450.0),  # Ada white paper (2022), accumulated in fp32
        Device("V100", 15 * GIB, 125.0, 300.0),  # V100 (2017), SXM2, 16 GB
        Device("V100 32GB", 31 * GIB, 125.0, 300.0),  # V100 (2018), SXM2
        Device("V100 PCIE", 15 * GIB, 112.0, 250.0),  # V100 (2017), PCIe card, 16 GB
        Device("V100 PCIE 32GB", 31 * GIB, 112.0, 250.0),  # V100 (2018), PCIe card
    )
}
"""Part of a GPU's name → what it is."""
_LESSER = {"Laptop", "Mobile", "MIG", "D"}
"""Words in the names of devices that are less than their namesake: slower chips, and slices of one (MIG)."""


@dataclass(frozen=True)
class Price:
    """What one GPU costs for an hour."""

    gpu: str
    """A name in `GPUS`."""
    usd: float
    """US dollars, without storage, traffic and taxes; of machines sold whole, the GPU's share."""
    spot: bool
    """Whether the machine may be taken away at any moment."""
    where: str
    """Who sells it."""
    date: str
    """Day on which the price was read, or in which the list that has it was made."""


PRICES = (
    # runpod.io/pricing, Secure Cloud: read on 2026-11-09 (github.com/datareceipts/data-receipts) or 2026-09-25
    # (github.com/tgarg01/silybench-data).
    Price("A100 80GB", 1.79, False, "RunPod", "2026-11-09"),
    Price("H100", 3.99, False, "RunPod", "2026-11-09"),
    Price("H100 PCIe", 2.89, False, "RunPod", "2026-11-09"),
    Price("H100 NVL", 3.19, False, "RunPod", "2026-11-09"),
    Price("H200", 4.59, False, "RunPod", "2026-09-25"),
    Price("B200", 6.79, False, "RunPod", "2026-09-25"),
    Price("L40S", 1.09, False, "RunPod", "2026-09-25"),
    Price("RTX 4090", 0.74, False, "RunPod", "2026-09-25"),
    # lambda.ai/instances, eight in a machine: read on 2026-09-20 (github.com/api-evangelist/lambda-labs).
    Price("A100", 1.99, False, "Lambda", "2026-09-20"),
    Price("V100", 0.79, False, "Lambda", "2026-09-20"),
    # hyperstack.cloud/gpu-pricing: read on 2026-08-26 (github.com/api-evangelist/nexgen-cloud); both are PCIe cards.
    Price("A100 80GB", 1.08, True, "Hyperstack", "2026-08-26"),
    Price("H100 PCIe", 2.00, True, "Hyperstack", "2026-08-26"),
    # p5en.48xlarge, us-east-2, $26.57 for eight: github.com/dstackai/dstack/pull/4110.
    Price("H200", 3.32, True, "AWS", "2026-08-06"),
    # a2-highgpu-1g, asia-east1: github.com/Cyclenerd/google-cloud-pricing-cost-calculator.
    Price("A100", 0.76, True, "Google", "2026-02-12"),
    # verda.com/pricing: read on 2026-10-29 (huggingface.co/datasets/lantern-works/gpu-cloud-prices).
    Price("L40S", 0.94, True, "Verda", "2026-10-29"),
)
"""List prices, at most one on demand and one spot for each GPU. Prices move: a run can be given its own."""


def find_gpu(name: str) -> Device | None:
    """The GPU that a name means, or None where it is not in the table.

    Args:
        name: as `torch.cuda.get_device_name()` gives it, or as people write it: "A100-80GB".
    """
    if _words(name) & _LESSER:
        return None
    matches = [each for each in GPUS if _words(each) <= _words(name)]
    return GPUS[max(matches, key=len)] if matches else None


def peak_flops(device_name: str) -> float | None:
    """Peak dense half-precision FLOP/s of a device, or None where it is not in the table.

    Args:
        device_name: as `torch.cuda.get_device_name()` gives it.
    """
    gpu = find_gpu(device_name)
    return gpu.tflops * 1e12 if gpu and gpu.tflops else None


def find_price(device_name: str, *, spot: bool) -> Price | None:
    """The list price of a GPU, or None where none was found.

    Args:
        device_name: as for `find_gpu`.
        spot: the price of a machine that may be taken away.
    """
    gpu = find_gpu(device_name)
    return next((each for each in PRICES if gpu and each.gpu == gpu.name and each.spot == spot), None)


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
