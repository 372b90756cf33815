"""Folders of studies, ladders and evaluations in the real format, written without training.

Tests use them, and the benchmark of reports.
"""

import json
import math
import random

from evclip_ray.artifacts import read_json, write_json, write_ledger, write_text
from evclip_ray.metrics.intervals import wilson_interval

SEARCH = {
    "method.mask.depth": "int(1, 4) when method.prompts in ['both', 'mask']",
    "method.prompts": "choice(both, mask, context)",
    "optim.lr": "loguniform(3e-05, 0.03)",
    "optim.weight_decay": "uniform(0.0, 0.1)",
}
FIXED = {
    "data": {"manifest": "videos.csv", "shots": 16},
    "view": {"num_frames": 8, "sampling": "segments"},
    "backbone": {"name": "debug", "pretrained": "random"},
    "method": {"name": "ev_clip", "template": "A video of {}."},
    "optim": {"epochs": 20},
}
CLASSES = ("hug", "kick", "shake hands")
VIDEOS = 72


def without_stages(output):
    """Return the lines of a command's output except those that name what it does: "loading PyTorch ..."."""
    return [line for line in output.strip().splitlines() if not line.endswith(" ...")]


def write_study(root, *, trials=6, epochs=4, seed=0, states=(), classes=CLASSES, nan_from=None):
    """Write a study and return its folder.

    Args:
        root: Folder of the study.
        trials: Number of trials.
        epochs: Number of epochs of a complete trial.
        seed: Seed of points and scores.
        states: States of the first trials; the others are complete.
        classes: Class names.
        nan_from: First epoch whose metrics are NaN.
    """
    draw = random.Random(seed)
    write_ledger(root, "study", inputs={"fixed": FIXED, "search": SEARCH, "seed": seed, "sampler": "tpe"})
    write_json(root / "fixed.json", FIXED)
    low, high = wilson_interval(24, VIDEOS)
    scores = {"videos": VIDEOS, "top1": 24 / VIDEOS, "top1_interval": [low, high]}
    write_json(root / "zero_shot" / "0123.json", {**scores, "weights": {"clip": "random"}})
    for number in range(trials):
        state = states[number] if number < len(states) else "complete"
        _write_trial(root / "trials" / f"trial-{number:04d}", draw, state, epochs, nan_from)
    record = {
        "experiment": {**FIXED, "seed": 0, "data": {**FIXED["data"], "split_seed": 0}},
        "classes": list(classes),
        "weights": {"clip": "random"},
        "decoder": "pyav 18",
        "provenance": {"versions": {"torch": "2.15"}, "git": "0123abc"},
    }
    if trials:
        write_json(root / "best" / "config.json", record)
    return root


def _write_trial(folder, draw, state, epochs, nan_from):
    point = {"method.prompts": draw.choice(["both", "mask", "context"])}
    point["optim.lr"] = 10 ** draw.uniform(-4.5, -1.5)
    point["optim.weight_decay"] = draw.uniform(0, 0.1)
    if point["method.prompts"] != "context":
        point["method.mask.depth"] = draw.randint(1, 4)
    write_json(folder / "point.json", {"overrides": point})
    if state != "running":
        error = "ConfigError: no such setting" if state == "failed" else None
        write_json(folder / "result.json", {"state": state, "error": error})
    if state == "failed":
        return
    length = max(1, epochs // 2) if state in ("stopped", "diverged", "running") else epochs
    # The final accuracy depends on the learning rate alone, with its best value at 1e-3.
    accuracy = 0.75 - 0.08 * abs(math.log10(point["optim.lr"]) + 3) + draw.gauss(0, 0.03)
    rows, best = [], (0.0, None, 0)
    for epoch in range(1, length + 1):
        hits = round(VIDEOS * max(0.05, accuracy * (1 - math.exp(-epoch / 4)) + draw.gauss(0, 0.02)))
        top1, loss = (
            min(1.0, hits / VIDEOS),
            1.8 - accuracy * (1 - math.exp(-epoch / 4)) + draw.gauss(0, 0.02),
        )
        is_nan = nan_from is not None and epoch >= nan_from
        if not is_nan and (best[1] is None or (top1, -loss) > (best[0], -best[1])):
            best = (top1, loss, epoch)
        scores = {"train_loss": loss - 0.1, "val_top1": top1, "val_top5": 1.0, "val_loss": loss}
        best_scores = {"best_val_top1": best[0], "best_val_loss": best[1], "best_epoch": best[2]}
        constants = {"zero_shot_top1": 24 / VIDEOS, "val_videos": VIDEOS, "leaking_rows": 0, "seconds": 1.5}
        row = {"epoch": epoch, **({} if is_nan else scores), **best_scores, **constants}
        rows.append(row | ({"diverged": True, "train_loss": math.nan} if is_nan else {}))
        if is_nan:
            break
    write_text(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def write_evaluation(root, *, split="val", classes=CLASSES, videos=24, masks=False):
    """Write an evaluation as `evaluate` does, with random predictions. Returns its folder."""
    draw = random.Random(1)
    root.mkdir(parents=True, exist_ok=True)
    rows = [(f"v{n}.mp4", *(draw.randrange(len(classes)) for _ in range(3))) for n in range(videos)]
    quoted = [name.replace('"', '""') for name in classes]
    cell = [f'"{name}"' for name in quoted]
    counts = [
        [sum(r[1] == t and r[3] == p for r in rows) for p in range(len(classes))] for t in range(len(classes))
    ]
    lines = [",".join(['"true \\ predicted"', *cell])] + [
        ",".join([cell[t], *map(str, counts[t])]) for t in range(len(classes))
    ]
    write_text(root / "confusion.csv", "\n".join(lines) + "\n")
    lines = ["class,videos,zero_shot,adapted"]
    for t in range(len(classes)):
        of_class = [r for r in rows if r[1] == t]
        before, after = (sum(r[c] == t for r in of_class) / len(of_class) if of_class else "" for c in (2, 3))
        lines.append(f"{cell[t]},{len(of_class)},{before},{after}")
    write_text(root / "per_class.csv", "\n".join(lines) + "\n")
    lines = [
        "path,label,zero_shot,adapted",
        *(f"{r[0]},{cell[r[1]]},{cell[r[2]]},{cell[r[3]]}" for r in rows),
    ]
    write_text(root / "predictions.csv", "\n".join(lines) + "\n")
    scores = {"videos": videos, "top1": 0.5, "top1_interval": [0.3, 0.7], "top5": 1.0}
    scores |= {"mean_class_accuracy": 0.5, "log_loss": 1.1, "calibration_error": 0.1}
    inputs = {"checkpoint": "gone/best", "split": split, "protocol": "closed_set", "side": split}
    inputs |= {"classes": list(classes), "views": {"temporal": 1, "spatial": 1, "average": "probability"}}
    inputs["experiment"] = {"method": {"name": "ev_clip", "template": "A video of {}."}}
    facts = {"counts": {"videos": videos, "leaking_rows": 0}, "weights": {"clip": "random"}, "openings": 1}
    write_ledger(root, "evaluation", inputs=inputs, zero_shot=scores, adapted=scores, **facts)
    if masks:
        write_masks(root / "masks", classes)
    return root


def write_calibration(root, classes=CLASSES, videos=60):
    """Add a measured calibration to an evaluation, as `evaluate` does for a calibrated checkpoint."""
    import numpy as np

    from evclip_ray.artifacts import write_csv
    from evclip_ray.evaluation.calibrate import CalibrationSettings, fit_calibration
    from evclip_ray.metrics.calibration_measures import BIN_COLUMNS, measure_calibration
    from evclip_ray.metrics.rejection import COLUMNS
    from evclip_ray.metrics.scoring import Scores

    draw = np.random.default_rng(0)
    labels = draw.integers(len(classes), size=videos)
    logits = 3 * draw.normal(size=(videos, len(classes))) + 4 * np.eye(len(classes))[labels]
    scores = Scores(logits.astype(np.float32), labels)
    settings = CalibrationSettings(reject_risk=0.1, conformal=0.9)
    calibration = fit_calibration(scores, tuple(classes), settings)
    measures = measure_calibration(calibration, scores, tuple(classes), np.arange(videos) // 3)
    write_csv(root / "reliability.csv", BIN_COLUMNS, measures.bins)
    write_csv(root / "risk_coverage.csv", COLUMNS, measures.curve.rows())
    write_json(root / "ledger.json", {**read_json(root / "ledger.json"), "calibration": measures.record})


def write_masks(folder, classes=CLASSES, count=2):
    """Write the masks of an evaluation as `evaluation.mask_views` does."""
    import numpy as np

    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    frames = draw.integers(0, 255, (count, 4, 16, 16, 3), dtype=np.uint8)
    masks = np.broadcast_to(np.linspace(0, 1, 16), (count, 16, 16)).astype(np.float16)
    np.savez_compressed(folder / "masks.npz", frames=frames, masks=masks)
    prediction = {"label": classes[0], "p": 0.6, "p_true": 0.2}
    video = {"label": classes[1], "true": 1, "zero_shot": prediction, "adapted": prediction, "why": "random"}
    video |= {"coverage": 0.5, "mask_coverage": 0.31, "entropy": 0.9}
    record = {"made": {"checkpoint": "0123", "videos": count, "seed": 0}, "split": "val", "seed": 0}
    videos = [{"path": f"v{n}.mp4", **video} for n in range(count)]
    write_json(folder / "masks.json", {**record, "mean": [0.5] * 3, "videos": videos})


def write_ladder(root, *, steps=("small", "middle", "large"), failed=(), trials=6):
    """Write a ladder as `scale` does: studies, tables and fits. Returns its folder."""
    write_ledger(root, "ladder", inputs={"along": ["backbone.name"]})
    begun = [name for name in steps if name not in failed]
    for index, name in enumerate(begun):
        write_study(root / "rungs" / name, trials=trials, seed=index)
    _write_rows(root / "ladder.csv", [_step(name, index, name in begun) for index, name in enumerate(steps)])
    costs = [
        {"rung": name, "quantity": "inference_gmac", "part": part, "batch": "", "value": 2.0 * 3**index}
        | {"unit": "GMAC", "source": "counted"}
        for index, name in enumerate(begun)
        for part in ("image_tower", "mask_generator")
    ]
    _write_rows(root / "costs.csv", costs)
    common = {"path": "optim.lr", "trials": trials, "status": "ok"}
    rate = {"best": 0.001, "low": 0.0001, "high": 0.01, "within_noise": "0.001 0.0001 0.01"}
    prompts = {"path": "method.prompts", "best": "both", "low": "", "high": "", "within_noise": "both mask"}
    best = [{"rung": name, **common, **facts} for facts in (rate, prompts) for name in begun]
    _write_rows(root / "transfer.csv", best)
    importance = {"importance": 0.7, "null": 0.5, "evaluator": "PED-ANOVA"}
    _write_rows(root / "importance.csv", [{"rung": name, **common, **importance} for name in begun])
    write_json(root / "fits.json", _fits(len(begun)))
    return root


def _step(name, index, has_begun):
    top1 = 0.5 + 0.08 * index
    low, high = wilson_interval(round(top1 * VIDEOS), VIDEOS)
    scored = {
        "val_top1": top1,
        "val_top1_low": low,
        "val_top1_high": high,
        "val_videos": VIDEOS,
        "gain": 0.08 if index else "",
        "gain_low": 0.02 if index else "",
        "gain_high": 0.15 if index else "",
        "zero_shot_top1": 0.3 + 0.05 * index,
        "device_seconds": 100,
        "train_videos": 48,
        "inference_gmac": 4.0 * 3**index,
        "total_parameters": 10**7 * 3**index,
        "trainable_parameters": 10**5 * 2**index,
        "latency_seconds": 0.01 * 2**index,
        "videos_per_second": 100 / 2**index,
        "checkpoint_bytes": 4e5,
        "training_step_seconds": 0.1,
        "pareto_latency": True,
        "pareto_total_parameters": True,
        "pareto_trainable_parameters": True,
    }
    state = {"state": "finished", "error": "", "trials": 6, "best_trial": "trial-0001"}
    if not has_begun:
        state = {"state": "failed", "error": "ConfigError: no such backbone", "trials": 0, "best_trial": ""}
        scored = dict.fromkeys(scored, "")
    return {"rung": name, **state, **scored}


def _fits(num_steps):
    status = f"not enough steps: {num_steps} of different cost, 4 are needed"
    few = {"cost": "inference_gmac", "form": "saturating", "formula": "top1 = c - a x^-b"}
    few |= {"needed_rungs": 4, "rungs": num_steps, "status": status, "left_out": []}
    points = [(4.0 * 3**index, 0.5 + 0.08 * index) for index in range(3)]
    curve = [{"cost": cost, "top1": top1, "low": top1 - 0.1, "high": top1 + 0.1} for cost, top1 in points]
    power_law = {"form": "power_law", "formula": "top1 = 1 - a x^-b", "status": "fitted", "rmse": 0.01}
    fitted = few | power_law | {"curve": curve, "parameters": {"a": {"value": 0.4, "interval": [0.3, 0.5]}}}
    slope = {"path": "optim.lr", "slope": 0.1, "interval": [-0.2, 0.3]}
    slope |= {"scale": "log10(value) per log10(cost)", "status": "stays within noise"}
    accuracy = [fitted, few] if num_steps > 2 else [few | {"form": "power_law"}, few]
    return {"accuracy": accuracy, "transfer": {"cost": "inference_gmac", "slopes": [slope]}}


def _write_rows(path, rows):
    if not rows:
        write_text(path, "rung,path,quantity,best,importance\n")
        return
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


def write_journal(study):
    """Write the Optuna journal of a study's trials as a search does."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(study / "study.journal")))
    search = optuna.create_study(storage=storage, study_name="evclip-ray", direction="maximize")
    distributions = {
        "optim.lr": optuna.distributions.FloatDistribution(1e-5, 1, log=True),
        "method.prompts": optuna.distributions.CategoricalDistribution(["both", "mask", "context"]),
    }
    for folder in sorted((study / "trials").iterdir()):
        point = read_json(folder / "point.json")["overrides"]
        params = {path: point[path] for path in distributions}
        epochs = dict.fromkeys(range(1, 21), 0.5)
        trial = optuna.trial.create_trial(
            value=0.5,
            params=params,
            distributions=distributions,
            intermediate_values=epochs,
            user_attrs={"folder": folder.name},
        )
        search.add_trial(trial)
