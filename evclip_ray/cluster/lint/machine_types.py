"""What the clouds' machine types have, to tell a cluster file that promises what its machines lack.

Public facts of the providers' lists, for the types that suit this work. A type that is not here is
taken as the file describes it.
"""

from typing import NamedTuple


class MachineType(NamedTuple):
    """`memory`: GiB. `gpu`: the GPU's name, "" without one."""

    cpus: int
    memory: int
    gpus: int = 0
    gpu: str = ""


MACHINE_TYPES = {
    "m5.large": MachineType(2, 8),
    "m5.xlarge": MachineType(4, 16),
    "m5.2xlarge": MachineType(8, 32),
    "c5.2xlarge": MachineType(8, 16),
    "c5.4xlarge": MachineType(16, 32),
    "c5.9xlarge": MachineType(36, 72),
    "g4dn.xlarge": MachineType(4, 16, 1, "T4"),
    "g4dn.2xlarge": MachineType(8, 32, 1, "T4"),
    "g4dn.12xlarge": MachineType(48, 192, 4, "T4"),
    "g5.xlarge": MachineType(4, 16, 1, "A10G"),
    "g5.2xlarge": MachineType(8, 32, 1, "A10G"),
    "g5.4xlarge": MachineType(16, 64, 1, "A10G"),
    "g5.12xlarge": MachineType(48, 192, 4, "A10G"),
    "g6.xlarge": MachineType(4, 16, 1, "L4"),
    "g6.2xlarge": MachineType(8, 32, 1, "L4"),
    "p3.2xlarge": MachineType(8, 61, 1, "V100"),
    "p3.8xlarge": MachineType(32, 244, 4, "V100"),
    "p4d.24xlarge": MachineType(96, 1152, 8, "A100"),
    "p5.48xlarge": MachineType(192, 2048, 8, "H100"),
    "e2-standard-4": MachineType(4, 16),
    "e2-standard-8": MachineType(8, 32),
    "n2-standard-4": MachineType(4, 16),
    "c2-standard-16": MachineType(16, 64),
    "g2-standard-4": MachineType(4, 16, 1, "L4"),
    "g2-standard-8": MachineType(8, 32, 1, "L4"),
    "g2-standard-48": MachineType(48, 192, 4, "L4"),
    "a2-highgpu-1g": MachineType(12, 85, 1, "A100"),
    "a3-highgpu-8g": MachineType(208, 1872, 8, "H100"),
    "Standard_D4s_v5": MachineType(4, 16),
    "Standard_D8s_v5": MachineType(8, 32),
    "Standard_F16s_v2": MachineType(16, 32),
    "Standard_NC4as_T4_v3": MachineType(4, 28, 1, "T4"),
    "Standard_NC8as_T4_v3": MachineType(8, 56, 1, "T4"),
    "Standard_NC64as_T4_v3": MachineType(64, 440, 4, "T4"),
    "Standard_NV36ads_A10_v5": MachineType(36, 440, 1, "A10"),
    "Standard_NC24ads_A100_v4": MachineType(24, 220, 1, "A100"),
    "Standard_NC40ads_H100_v5": MachineType(40, 320, 1, "H100"),
}
WITHOUT_BFLOAT16 = ("T4", "V100")
"""GPUs that emulate bfloat16, slower than float32."""
