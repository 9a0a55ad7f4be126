"""The XLA flags of a run on CPU, each with its reason; appended to the user's own.

A flag that a jaxlib does not know ends the process, so each one names the releases it was tried on.
"""

import os
from importlib.metadata import version

# Flags for every jaxlib tried (0.10.2, 0.12.0.1).
_COMMON = (
    # Keeps `optimization_barrier` until code is emitted. Without it XLA:CPU drops the barriers of
    # kernels.py first, and then fuses a pooled image into each of the nine slices that read it.
    "--xla_disable_hlo_passes=cse_barrier_expander",
    # Vectors of 16 floats where the processor has them; the default stops at 8.
    "--xla_cpu_prefer_vector_width=512",
)
_BY_RELEASE = {
    (0, 10): (
        # The older emitters vectorise loops over slices; the newer ones compute an index for each
        # element: the maximum of four [6, 12, 12, 32] arrays takes 107 us with them and 7 without.
        "--xla_cpu_use_fusion_emitters=false",
        # Wrong results and a crash in large fused reductions: jax issues 39103 and 40412.
        "--xla_cpu_experimental_ynn_fusion_type=-reduce",
    ),
    (0, 12): (),
}


def wanted() -> tuple[str, ...]:
    """The flags for the installed jaxlib; none for a release that was not tried."""
    release = tuple(int(part) for part in version("jaxlib").split(".")[:2])
    return _COMMON + _BY_RELEASE[release] if release in _BY_RELEASE else ()


def set_for_cpu() -> None:
    """Appends each wanted flag to `XLA_FLAGS` unless the user has set that flag."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    taken = {flag.partition("=")[0] for flag in flags}
    flags += [flag for flag in wanted() if flag.partition("=")[0] not in taken]
    os.environ["XLA_FLAGS"] = " ".join(flags)
