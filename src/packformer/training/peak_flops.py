"""A GPU's peak flops, from its data sheet."""

from __future__ import annotations

_DENSE_TFLOPS = {  # bfloat16 (float16 before Ampere) into float32; the first name that fits counts
    "B200": 2250.0,
    "GH200": 989.4,
    "H200 NVL": 835.5,
    "H200": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.5,
    "H100": 989.4,
    "H800": 989.4,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A6000": 154.8,
    "L40S": 362.1,
    "L40": 181.1,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


def peak_flops(device_name: str) -> float | None:
    """Flops per second of dense half-precision matrix products, as NVIDIA's data sheets state them.

    Figures "with sparsity" are halved: no training run uses it.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it.

    Returns:
        None for a GPU that is not in the table.
    """
    words = device_name.upper().replace("-", " ")
    for name, tflops in _DENSE_TFLOPS.items():
        if f" {name.upper()} " in f" {words} ":
            return tflops * 1e12
    return None
