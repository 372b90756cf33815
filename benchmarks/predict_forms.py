"""Latency of one video by part of the model and by form, for `predict.py latency`."""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from predict import percentiles

from evclip_ray.class_names import split_words
from evclip_ray.data.transforms import crop_batch, to_device
from evclip_ray.deploy.export import export_recognizer
from evclip_ray.deploy.export_description import ExportPlan
from evclip_ray.deploy.export_files import SUFFIXES
from evclip_ray.deploy.exported_model import ExportedModel
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.models.batch import VideoBatch

Run = Callable[[], Any]


def latency(recognizer: Recognizer, video: Path, arguments: argparse.Namespace) -> None:
    """Print median and 95th percentile in milliseconds, by number of threads, part and form."""
    with tempfile.TemporaryDirectory(prefix="evclip-forms-") as folder:
        exported = _export(recognizer, Path(folder), arguments.forms)
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for name, run in _parts(recognizer, video):
                _report(name, run, threads, recognizer.device, arguments.repeats)
            frames = [recognizer.decode(video)]
            for form in arguments.forms:
                run = _form(form, recognizer, frames, exported, threads)
                _report(f"model, {form}", run, threads, recognizer.device, arguments.repeats)


def _export(recognizer: Recognizer, folder: Path, forms: list[str]) -> dict[str, Path]:
    paths = {}
    for form in forms:
        kind, _, precision = form.partition("-")
        if kind in SUFFIXES:
            plan = ExportPlan(folder / f"{form}{SUFFIXES[kind]}", kind, precision or "float32")
            paths[form] = export_recognizer(recognizer, plan).path
    return paths


def _report(name: str, run: Run, threads: int, device: torch.device, repeats: int) -> None:
    with torch.no_grad():
        median, late = percentiles(run, repeats=repeats, device=device)
    row = {"threads": threads, "what": name, "median ms": round(median, 1), "p95 ms": round(late, 1)}
    print(json.dumps(row), flush=True)


def _parts(recognizer: Recognizer, video: Path) -> Iterator[tuple[str, Run]]:
    """Yield the parts of a prediction, whose times add up to about that of the whole."""
    method, device, size = recognizer.method, recognizer.device, recognizer.image_size
    clip, encoder = method.frozen.clip, method.frozen.video_encoder
    frames = recognizer.decode(video)[None]
    pixels = crop_batch(to_device(frames, device), size=size)
    images = clip.prepare(pixels)
    yield "decode", lambda: recognizer.decode(video)
    yield "crop", lambda: crop_batch(to_device(frames, device), size=size)
    yield "CLIP image tower", lambda: clip.encode_frames(images)
    if encoder is not None:
        views = encoder.prepare(pixels)
        yield "video network", lambda: encoder(views)
        with torch.no_grad():
            video_map = encoder(views)
        for part in ("mask_generator", "context_generator"):
            generator = getattr(method, part, None)
            if generator is not None:
                yield part.replace("_", " "), lambda generator=generator: generator(video_map)
    texts = [split_words(name) for name in recognizer.classes]
    yield f"text of {len(texts)} classes (once)", lambda: clip.encode_text(texts)
    yield "predict, whole", lambda: recognizer.predict(video)


def _form(
    form: str, recognizer: Recognizer, frames: list[Any], exported: dict[str, Path], threads: int
) -> Run:
    if form == "eager":
        return lambda: recognizer.logits(frames)
    if form == "compiled":
        compiled = torch.compile(recognizer.method, dynamic=False)

        def run() -> Any:
            pixels = crop_batch(to_device(frames[0][None], recognizer.device), size=recognizer.image_size)
            return compiled(VideoBatch(pixels)).logits

        return run
    model = ExportedModel.load(exported[form], threads=threads if form.startswith("onnx") else None)
    return lambda: model.logits(frames)
