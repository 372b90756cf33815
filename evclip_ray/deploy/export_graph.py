"""Graph of a method for export, traced by torch.export for any batch size.

    logits = method(crops / 255)

The graph starts at uint8 crops, so that scaling, resizing and normalisation are inside. Decoding, the resize
to the stored size and the centre crop stay outside: they depend on the size of the video.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from evclip_ray.data.transforms import crop_box
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.layers.class_text import TextClassifier, scaled_cosines
from evclip_ray.models.methods.base import Method

FRAMES, TEXTS, LOGITS, VIDEO_FEATURES = "frames", "text_features", "logits", "video_features"
"""Names of the inputs and outputs of an exported model."""

BATCH, CLASSES = "batch", "classes"
"""Names of the dimensions of any size."""


def crop_side(view: ViewConfig) -> int:
    """Return the side in pixels of the centre crop of stored frames, which the graph reads."""
    return crop_box(view.shortest, view.shortest)[2]


class ExportGraph(nn.Module):
    """Method from uint8 crops to logits.

    Args:
        method: Method in evaluation mode.
        view: View of the training.
        texts: Class texts, for a graph with text features as an input; None folds the class texts in.
    """

    def __init__(self, method: Method, *, view: ViewConfig, texts: TextClassifier | None = None) -> None:
        super().__init__()
        clip = method.frozen.clip
        self.method = method
        # A method does not register its frozen networks, but torch.export needs the name of every parameter.
        self.clip, self.video_encoder = clip, method.frozen.video_encoder
        self.texts = texts
        side = crop_side(view)
        is_resized = side != clip.image_size
        resize = _resize_matrix(side, clip.image_size).to(clip.device) if is_resized else None
        self.register_buffer("resize", resize, persistent=False)
        self.resize: Tensor | None

    def forward(self, frames: Tensor, text_features: Tensor | None = None) -> Any:
        """Return logits (B, N); with text features (N, D) also the video features (B, D).

        Args:
            frames: (B, T, c, c, 3) uint8, where c is the side of the centre crop.
            text_features: (N, D), L2-normalised, for open classes.
        """
        output = self.method(VideoBatch(self._pixels(frames)))
        if self.texts is None or text_features is None:
            return output.logits
        logits = scaled_cosines(
            output.video_features, text_features, scale=self.texts.scale, bias=self.texts.bias
        )
        return logits, output.video_features

    def _pixels(self, frames: Tensor) -> Tensor:
        # (B, T, c, c, 3) -> (B, T, 3, c, c)
        planes = frames.permute(0, 1, 4, 2, 3).float()
        if self.resize is None:
            return planes / 255
        # The rounded weights of the interpolation can sum to slightly more than 1.
        return (self.resize @ planes @ self.resize.T / 255).clamp(0, 1)


def _resize_matrix(side: int, size: int) -> Tensor:
    """Return (size, side) weights of the resize in `crop_batch`, which is linear and acts on each axis."""
    identity = torch.eye(side)[None, None]
    resized = functional.interpolate(identity, (size, side), mode="bilinear", antialias=side > size)
    return resized[0, 0]


def in_half_precision(method: Method) -> Method:
    """Return a copy of the method whose frozen networks for images have float16 weights.

    Trained tensors and everything behind the features stay float32: the mask's softmax and its rescaling, the
    norm of the features and the logits.
    """
    # Copied together with the frozen networks, which the process shares.
    half = copy.deepcopy(method)
    networks = [half.frozen.clip.model.visual, half.frozen.video_encoder]
    # A fine-tuned image tower is a trained part, but as large as a frozen one.
    networks += [module.visual for _, module in half.named_children() if hasattr(module, "visual")]
    for network in networks:
        if network is not None:
            network.half()
    return half


def trace(graph: ExportGraph, frames: Tensor) -> ExportedProgram:
    """Trace a graph for any batch size, and for any number of open classes.

    Args:
        graph: The graph.
        frames: (B, T, c, c, 3) uint8 with B > 1; the values do not matter.
    """
    graph.eval()
    inputs: tuple[Tensor, ...] = (frames,)
    shapes: tuple[dict[int, Any], ...] = ({0: Dim(BATCH, min=1)},)
    if graph.texts is not None:
        # A size of 1 would be taken as fixed.
        inputs = (frames, graph.texts.features.repeat(3, 1))
        shapes = (*shapes, {0: Dim(CLASSES, min=1)})
    with torch.no_grad():
        # Methods that encode class texts keep them from this pass.
        graph(*inputs)
        program = torch.export.export(graph, inputs, dynamic_shapes=shapes)
        # Without operations in place, so that a value never changes after its node.
        module = program.run_decompositions(_factories()).module(check_guards=False)
        assert isinstance(module, torch.fx.GraphModule)
        fold_constants(module)
        # Traced again, which gives the signature of the smaller graph.
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    _forget_source(program)
    return program


def _factories() -> dict[Any, Any]:
    """Return decompositions of operations that read a tensor for its type alone, such as `new_zeros`."""
    names = ("new_", "zeros_like", "ones_like", "full_like")
    table = torch.export.default_decompositions().items()
    return {
        operation: function
        for operation, function in table
        if operation.name().removeprefix("aten::").startswith(names)
    }


def fold_constants(module: torch.fx.GraphModule) -> None:
    """Replace the nodes that depend on no input and no parameter by their values, in place.

    A Swin transformer computes the masks of its shifted windows in every pass, although they depend on the
    size of the map alone. Parameters and modules that are not used are dropped, such as the text tower.

    Args:
        module: Graph without operations in place.
    """
    graph, values = module.graph, _constants(module)
    for node, value in values.items():
        if any(user not in values for user in node.users):
            name = f"folded_{node.name}"
            # A copy: a view would bring the whole tensor behind it into the file.
            module.register_buffer(name, value.clone(memory_format=torch.contiguous_format))
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name))
    for node in reversed(graph.nodes):
        # Checks of types have no users, but must not keep a constant.
        is_check = node.target is torch.ops.aten._assert_tensor_metadata.default
        if is_check or (node.op in ("call_function", "get_attr") and not node.users and not node.is_impure()):
            graph.erase_node(node)
    _drop_unused(module)
    module.recompile()


def _constants(module: torch.fx.GraphModule) -> dict[torch.fx.Node, Tensor]:
    values: dict[torch.fx.Node, Tensor] = {}
    for node in module.graph.nodes:
        # The number in `mask[1:3] = 5` is such a tensor in torch 2.9.
        if node.op == "get_attr" and str(node.target).startswith("lifted_tensor_"):
            values[node] = getattr(module, str(node.target))
        is_tensor = node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
        if not is_tensor or not all(source in values for source in node.all_input_nodes):
            continue
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    return values


def _drop_unused(module: torch.fx.GraphModule) -> None:
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers())]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)


def _forget_source(program: ExportedProgram) -> None:
    # Stack traces have the paths of this machine.
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
