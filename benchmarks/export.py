"""Difference of exported models from PyTorch on given videos, and their speed on a CPU.

Each method is built on the given towers with noise added to its tensors, and exported in each form. A method
that a tower does not allow is skipped. Expectation: in float32 no logit is off by more than 1e-3 and the best
class is the same for every video; ONNX Runtime in float32 takes at most the time of PyTorch. The ratio of
times is a median over interleaved passes on one thread, for one video.

Run: python benchmarks/export.py VIDEOS [--backbone world-s] [--weights world] [--encoder swin3d_world_masks]
     [--forms onnx-float32,onnx-int8] [--methods coop,ez_clip] [--checkpoint FOLDER] [--repeats 15]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from evclip_ray.artifacts import provenance
from evclip_ray.config import ConfigError
from evclip_ray.deploy.export import export_recognizer
from evclip_ray.deploy.export_description import ExportPlan
from evclip_ray.deploy.export_files import SUFFIXES
from evclip_ray.deploy.exported_model import ExportedModel
from evclip_ray.deploy.inputs import find_inputs
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.models.backbones import find_backbone
from evclip_ray.training.build import build_method, conditions_of, weights_of
from evclip_ray.training.checkpoint import save_checkpoint
from evclip_ray.training.experiment import ExperimentConfig

CLASSES = {
    # The small world's tokenizer knows only the words of its captions.
    True: ("bending both arms", "bending the left leg", "crossing both arms", "waving the left arm"),
    False: ("hand shaking", "hugging", "kicking", "pointing", "punching", "pushing"),
}
METHODS: dict[str, dict[str, Any]] = {
    "ev_clip": {},
    "ev_clip mask": {"prompts": "mask"},
    "ev_clip context": {"prompts": "context", "context": {"scale_init": 1.0}},
    "ev_clip open": {"mask": {"start": "open"}},
    "linear_probe": {},
    "coop": {},
    "ez_clip": {},
    "zero_shot": {},
    "prototype": {},
    "motion_prompts": {},
    "motion_prompts late": {"mode": "late"},
    "aim": {},
    "st_adapter": {},
    "fine_tune": {},
}
FORMS = "onnx-float32,onnx-int8,onnx-float16,torch-float32,torch-float16"


def write_checkpoint(folder: Path, name: str, arguments: argparse.Namespace) -> None:
    """Write a checkpoint of a method whose tensors have 2 % of noise."""
    method: dict[str, Any] = {"name": name.split(" ")[0], **METHODS[name]}
    is_world = find_backbone(arguments.backbone).is_world
    if method["name"] == "ev_clip":
        method["video_encoder"] = {"name": arguments.encoder, "weights": arguments.weights}
        if is_world:
            method["mask"] = {"window": 6, **method.get("mask", {})}
    settings = {
        "data": {"manifest": "videos.csv"},
        "backbone": {"name": arguments.backbone, "pretrained": arguments.weights},
        "method": method,
    }
    experiment = ExperimentConfig.load(settings)
    cpu = torch.device("cpu")
    built = build_method(experiment, CLASSES[is_world], device=cpu)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in built.parameters():
            size = value.std() if value.numel() > 1 and value.std() > 0 else 1.0
            value += 0.02 * size * torch.randn(value.shape, generator=generator)
    record = {
        "experiment": experiment.model_dump(mode="json"),
        "classes": list(CLASSES[is_world]),
        "num_trainable": built.num_trainable(),
        "weights": weights_of(built.frozen),
        "conditions": conditions_of(built.frozen, experiment, cpu),
        "provenance": provenance(),
    }
    save_checkpoint(folder, built, record)


def export_forms(name: str, recognizer: Recognizer, folder: Path, arguments: argparse.Namespace) -> None:
    """Export a recognizer in each form and print one row for each."""
    for form in arguments.forms.split(","):
        kind, precision = form.split("-")
        plan = ExportPlan(folder / f"{form}{SUFFIXES[kind]}", kind, precision)
        began = time.perf_counter()
        exported = export_recognizer(recognizer, plan, videos=arguments.videos)
        seconds = time.perf_counter() - began
        ratio = time_ratio(recognizer, exported.path, arguments) if arguments.repeats else float("nan")
        numbers = exported.parity.summary()
        print(
            f"| {name} | {form} | {exported.path.stat().st_size / 1e6:.1f} | "
            f"{numbers['max_logit_difference']:.2g} | {numbers['mean_logit_difference']:.2g} | "
            f"{numbers['top1_agreement']:.3f} of {numbers['videos']} | {ratio:.2f} | {seconds:.0f} |",
            flush=True,
        )
        exported.path.unlink()


def time_ratio(recognizer: Recognizer, path: Path, arguments: argparse.Namespace) -> float:
    """Return time of the export / time of PyTorch, the median over interleaved passes of one video."""
    model = ExportedModel.load(path, threads=1 if path.suffix == ".onnx" else None)
    frames = [recognizer.decode(arguments.videos[0])]
    ratios = []
    for _ in range(arguments.repeats):
        marks = [time.perf_counter()]
        for logits in (recognizer.logits, model.logits):
            logits(frames)
            marks.append(time.perf_counter())
        ratios.append((marks[2] - marks[1]) / (marks[1] - marks[0]))
    # The first pass loads code and memory.
    return statistics.median(ratios[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--backbone", default="world-s")
    parser.add_argument("--weights", default="world")
    parser.add_argument("--encoder", default="swin3d_world_masks")
    parser.add_argument("--forms", default=FORMS)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--checkpoint", help="a trained checkpoint, instead of methods with noise")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.videos = sorted(find_inputs([arguments.folder], list).videos)
    print(f"{arguments.backbone}, {arguments.weights} weights, {len(arguments.videos)} videos\n")
    print("| method | form | MB | largest difference | mean | same best class | time ratio | export in s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.checkpoint:
            recognizer = Recognizer.load(
                arguments.checkpoint, device="cpu", overrides={"precision": "float32"}
            )
            export_forms(recognizer.experiment.method.name, recognizer, folder, arguments)
            return
        for name in arguments.methods.split(","):
            try:
                write_checkpoint(folder / name, name, arguments)
            except ConfigError as error:
                print(f"| {name} | skipped: {str(error).split(';')[0]} |", flush=True)
                continue
            recognizer = Recognizer.load(folder / name, device="cpu")
            export_forms(name, recognizer, folder, arguments)


if __name__ == "__main__":
    main()
