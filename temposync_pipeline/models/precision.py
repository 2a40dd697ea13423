"""Which number format a network computes in."""

import os

import torch

# Of what oneDNN may be limited to by ONEDNN_MAX_CPU_ISA, the names that say one of these have bfloat16.
_WITH_BFLOAT16 = ("BF16", "FP16", "AMX", "AVX10", "DEFAULT", "ALL")


def has_fast_bfloat16(device: str | torch.device = "cpu") -> bool:
    """True on accelerators, and on x86 CPUs that multiply bfloat16 in hardware (AVX512_BF16), in about half the time of float32.

    Elsewhere, and where ONEDNN_MAX_CPU_ISA forbids it, oneDNN would convert back and forth and be slower than float32.  A torch without
    `torch.cpu.get_capabilities` counts as unable.
    """
    if torch.device(device).type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    return bool(capabilities.get("avx512_bf16", False)) and any(name in limit.upper() for name in _WITH_BFLOAT16)


def inference_autocast(latents: torch.Tensor, use_bfloat16: bool) -> torch.autocast:
    """Context in which a CPU multiplies in bfloat16 and keeps float32 for sums along residual connections.

    Nothing on other devices, nor where the networks, and so `latents`, are float16, which a CPU's autocast cannot mix with bfloat16.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=use_bfloat16 and latents.device.type == "cpu" and latents.dtype != torch.float16)
