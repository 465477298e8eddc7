"""benchmarks/denoiser.py measures each way and batch, and all ways do the same work."""

import argparse

import pytest
import torch

from benchmarks import denoiser


@pytest.mark.slow
def test_each_way_and_batch_is_measured() -> None:
    parser = argparse.ArgumentParser()
    denoiser.add_arguments(parser)
    words = "--device cpu --resolution 64 --batches 1 2 --steps 1"
    found = denoiser.measure(parser.parse_args(words.split()))
    assert [(row["way"], row["batch_size"]) for row in found["rows"]] == [
        ("plain", 1), ("plain", 2), ("eager", 1), ("eager", 2)
    ]  # fmt: skip
    assert all(0 < row["share_of_peak"] < 1 for row in found["rows"])


@pytest.mark.slow
def test_plain_and_ours_train_the_same() -> None:
    """As many numbers, and as an adapter changes nothing at first, the same loss."""
    plain, ours = (denoiser.Denoiser("sd1", way, "cpu") for way in ("plain", "eager"))
    assert sum(p.numel() for p in plain.trained) == sum(p.numel() for p in ours.trained)
    losses = []
    for each in (plain, ours):
        torch.manual_seed(1)
        losses.append(each.loss(64, 1)().item())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_kernels_are_counted_by_kind() -> None:
    """By names that torch 2.11 had on an H100."""
    names = {
        "nvjet_sm90_tst_320x128_64x3_1x2_h_bz_coopB_NNT": "products",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>": "products",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64": "attention",
        "void cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*)": "attention",
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize256x128x64": "convolutions",
        "_gradient_sums": "norms",
        "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float, false>": "norms",
        "_gated_backward": "gates",
        "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>>": "else",
    }
    for name, kind in names.items():
        assert denoiser.by_kind([(name, 3, 0.5)])["shares"][kind] == 1
    both = denoiser.by_kind([("_gated", 2, 0.25), ("_moments", 1, 0.75)])
    assert (both["count"], both["seconds"], both["shares"]["norms"]) == (3, 1.0, 0.75)
