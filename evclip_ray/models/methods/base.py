"""Contract of a method: an adaptation of a frozen CLIP.

A method is an `nn.Module` whose registered parameters are exactly the trained ones. It holds the frozen
networks in a `Frozen`, which registers nothing: `parameters()`, `state_dict()`, `train()` and
DistributedDataParallel see the adapter only, and a checkpoint cannot contain a backbone. Gradients still
pass through a frozen tower: frozen is not `no_grad`.

Life cycle, with the caller of each step:

1. The experiment's YAML is validated by the `MethodConfig` that its `method.name` selects.
2. Planning reads `caches`, `needs_video_encoder` and `trains` of the config. Nothing is loaded yet.
3. Each run calls `MethodConfig.build` once, after `torch.manual_seed(seed)`, then `Method.to(device)`.
4. Each training step calls `forward`, then `losses`; gradients and the optimiser step follow.
5. Validation and evaluation call `forward` in eval mode under `no_grad`. Checkpoints store `state_dict()`.
"""

from evclip_ray.models.methods.config import Cacheable as Cacheable
from evclip_ray.models.methods.config import MethodCase as MethodCase
from evclip_ray.models.methods.config import MethodConfig as MethodConfig
from evclip_ray.models.methods.method import Method as Method
