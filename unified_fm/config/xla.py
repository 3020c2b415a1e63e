"""Flags of the compiler by name, as their makers publish them for training.

GPU: NVIDIA's "Tips for High-Performance LLMs with JAX and XLA" (JAX-Toolbox, GPU_performance.md),
with the thresholds of MaxText's runs on H100. TPU: MaxText's xla_flags_library.py. They are off
unless asked for: what they gain depends on model, mesh and version, so measure it.
"""

from collections.abc import Mapping, Sequence

from unified_fm import choices

XLA, LIBTPU = "XLA_FLAGS", "LIBTPU_INIT_ARGS"  # of which JAX reads the second on TPUs only

_OVERLAP = (  # collectives run while something else is computed, and few are large
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "--xla_gpu_enable_highest_priority_async_stream=true",
    "--xla_gpu_all_reduce_combine_threshold_bytes=134217728",
    "--xla_gpu_all_gather_combine_threshold_bytes=134217728",
    "--xla_gpu_reduce_scatter_combine_threshold_bytes=67108864",
    "--xla_gpu_enable_pipelined_all_gather=true",
    "--xla_gpu_enable_pipelined_reduce_scatter=true",
    "--xla_gpu_enable_pipelined_all_reduce=true",
    "--xla_gpu_enable_while_loop_double_buffering=true",
)
_CUBLAS = ("--xla_gpu_enable_triton_gemm=false",)
_GRAPHS = (  # loops and branches become CUDA graphs, too: for steps of many small kernels
    "--xla_gpu_enable_command_buffer="
    "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE",
)
_FUSED_COLLECTIVES = (
    "--xla_enable_async_all_reduce=true",
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
_SCATTER = (
    "--xla_tpu_use_minor_sharding_for_major_trivial_input=true",
    "--xla_tpu_relayout_group_size_threshold_for_reduce_scatter=1",
    "--xla_tpu_assign_all_reduce_scatter_layout=true",
)
_V6E = ("--xla_tpu_scoped_vmem_limit_kib=98304",)

# libtpu may fuse one product into another, and that one into a third; sizing such a nest overflows
# its stack and ends the process (libtpu 0.0.42 at X-FM's step, MakeConvWindows).
NEEDED = (LIBTPU, ("--xla_tpu_dot_dot_fusion=false",))  # with every preset and without one

# {name: (environment variable, flags)}
PRESETS: Mapping[str, tuple[str, Sequence[str]]] = {
    "gpu-default": (XLA, _OVERLAP),
    "gpu-cublas": (XLA, (*_OVERLAP, *_CUBLAS)),
    "gpu-graphs": (XLA, (*_OVERLAP, *_GRAPHS)),
    "tpu-default": (LIBTPU, _FUSED_COLLECTIVES),
    "tpu-fsdp": (LIBTPU, (*_FUSED_COLLECTIVES, *_SCATTER)),
    "tpu-v6e": (LIBTPU, (*_FUSED_COLLECTIVES, *_SCATTER, *_V6E)),
}


def check(name: str) -> None:
    """Refuses a name that is no preset; "" is none, and right.

    Raises:
        ValueError: with the nearest.
    """
    choices.check("config.xla", name, ("", *PRESETS))


def split(name: str, environment: Mapping[str, str]) -> tuple[str, list[str], list[str]]:
    """What a preset adds to an environment, whose own flags stay as they are.

    Args:
        name: of the preset; "" are the flags that are always needed.
        environment: variables.

    Returns:
        (variable, flags to add, flags of the preset that the environment sets itself).
    """
    variable, flags = PRESETS[name] if name else NEEDED
    there = {_name(flag) for flag in environment.get(variable, "").split()}
    kept = [flag for flag in flags if _name(flag) in there]
    return variable, [flag for flag in flags if flag not in kept], kept


def _name(flag: str) -> str:
    return flag.lstrip("-").partition("=")[0]
