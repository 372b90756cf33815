"""Whether each claim holds, computed from the records alone.

A row is one number of a claim with its condition. It holds or fails as measured, with the number of seeds
that were measured, and is "not measured" without records. Rows without a condition are reported.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from evclip_ray.metrics.intervals import accuracy_interval, wilson_interval

from .experiments import (
    ALL_SHOTS,
    CONSISTENCY,
    DIAL_DOMAINS,
    DIALS,
    SIZE_DOMAINS,
    SIZES,
    STUDIES,
    Experiment,
    of_size,
    seeds_of,
    study,
    trained,
    with_consistency,
    without_mask_supervision,
    zero_shot_on,
)
from .results import PerVideo, Results, Value, answers_of, mean_over_groups, paired
from .settings import DOMAINS, EV_CLIP, HELD_OUT, METHODS, SHOTS, world_set

State = Literal["holds", "fails", "not measured", "reported"]

HARD, OTHERS = ("clutter", "dark"), ("plain", "egocentric", "temporal", "long_tail")
FACTOR_OF_DIAL = {
    "dark": ("luminance", -1),
    "clutter": ("scene_motion", 1),
    "egocentric": ("camera_motion", 1),
}
"""Domain -> the factor of `evclip-ray shift` that its dial should move, and the direction."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a claim.

    Attributes:
        claim: Letter of the claim.
        text: What is measured.
        expected: Condition in words; empty for a reported number.
        measured: The number with its interval, or several.
        state: Verdict.
        seeds: Number of seeds that were measured; 0 where no seed matters.
    """

    claim: str
    text: str
    expected: str
    measured: str
    state: State
    seeds: int = 0


def all_rows(results: Results) -> list[Row]:
    """Return the rows of all claims in order."""
    return [row for rows in _ROWS for row in rows(results)]


def _row(
    claim: str, text: str, expected: str, value: Value | None, holds: Callable[[Value], bool] | None
) -> Row:
    if value is None:
        return Row(claim, text, expected, "", "not measured")
    state: State = "reported" if holds is None else "holds" if holds(value) else "fails"
    return Row(claim, text, expected, str(value), state, value.seeds)


def _runs(results: Results, method: str, domain: str, *, shots: int = SHOTS) -> list[Experiment]:
    return [trained(method, world_set(domain), seed, shots=shots) for seed in results.seeds]


def _pretraining(results: Results) -> Iterator[Row]:
    for claim, domain in (("a", "plain"), ("b", "clutter"), ("b", "dark")):
        value = results.accuracy([zero_shot_on(HELD_OUT[domain])], "zero_shot")
        text = f"zero-shot top-1 on the 8 held-out actions, {domain}"
        if claim == "a":
            yield _row(claim, text, "at least 0.75", value, lambda value: value.value >= 0.75)
        else:
            yield _row(claim, text, "below 0.45", value, lambda value: value.value < 0.45)


def _few_shot(results: Results) -> Iterator[Row]:
    for domain in HARD:
        for shots in (SHOTS, SHOTS // 2):
            runs = _runs(results, "both", domain, shots=shots)
            gain = results.gain(runs)
            text = f"gain of EV-CLIP (both prompts) over zero-shot, {domain}, K = {shots}"
            if shots == SHOTS:
                yield _row("c", text, "at least 0.15", gain, lambda gain: gain.value >= 0.15)
                continue
            row = _row("c", text, "above 0 in 95 % (paired)", gain, lambda gain: gain.low > 0)
            ps = ", ".join(f"{p:.1g}" for p in results.p_values(runs))
            yield dataclasses.replace(row, measured=f"{row.measured}; McNemar p {ps}") if ps else row


def mask_value(results: Results, name: str, runs: Sequence[Experiment]) -> Value | None:
    """Return the mean over videos and seeds of a score of the masks, with its interval over groups."""
    found = [record for record in results.present(runs) if "masks" in record]
    if not found:
        return None
    values = np.mean([record["masks"][name] for record in found], axis=0)
    return mean_over_groups(values, found[0]["mask_groups"], seeds=len(found))


def _mask_gain(results: Results, name: str) -> Value | None:
    world, seeds = world_set("clutter"), results.seeds
    runs = zip(seeds, _runs(results, "mask", "clutter"), strict=True)
    both = [
        (results.record(Experiment("untrained", world, METHODS["mask"], seed)), results.record(run))
        for seed, run in runs
    ]
    pairs = [(before, after) for before, after in both if before is not None and after is not None]
    if not pairs:
        return None
    changes = [np.subtract(b["masks"][name], a["masks"][name]) for a, b in pairs]
    return mean_over_groups(np.mean(changes, axis=0), pairs[0][0]["mask_groups"], seeds=len(pairs))


def _masks(results: Results) -> Iterator[Row]:
    world, runs = world_set("clutter"), _runs(results, "mask", "clutter")
    ceiling = results.record(Experiment("true_mask", world))
    share = "" if ceiling is None else f", where the figure's share is {ceiling['share']:.2f}"
    for name, least in (("average_precision", 0.40), ("pointing_game", 0.50)):
        words = name.replace("_", " ")
        value = mask_value(results, name, runs)
        text = f"{words} of the trained mask, clutter{share}"
        yield _row("d", text, f"at least {least:.2f}", value, lambda value, least=least: value.value >= least)
        gain = _mask_gain(results, name)
        text = f"{words}, trained minus untrained"
        yield _row("d", text, "above 0 in 95 % (paired)", gain, lambda gain: gain.low > 0)
        prior = mask_value(results, name, [Experiment("true_mask", world)])
        text = f"{words} of the mean true mask of the training videos, the same for every video"
        yield _row("d", text, "", prior and dataclasses.replace(prior, seeds=0), None)
        unsupervised = mask_value(results, name, [without_mask_supervision(seed) for seed in results.seeds])
        text = f"{words} on the video network that was pretrained without true masks"
        yield _row(
            "d", text, f"at least {least:.2f}", unsupervised, lambda value, least=least: value.value >= least
        )
    given = results.accuracy([Experiment("true_mask", world)], "true_mask")
    yield _row("d", "zero-shot top-1 with the true mask of each frame, clutter (ceiling)", "", given, None)
    for predictor, text in (("zero_shot", "zero-shot"), ("adapted", "EV-CLIP's mask prompt")):
        yield _row("d", f"top-1 of {text}, clutter", "", results.accuracy(runs, predictor), None)


def _prompts(results: Results) -> Iterator[Row]:
    gains = {
        (method, domain): results.gain(_runs(results, method, domain))
        for method in EV_CLIP
        for domain in DOMAINS
    }
    known = {key: gain for key, gain in gains.items() if gain is not None}
    listed = "; ".join(
        f"{domain} {known['mask', domain].value:+.2f}" for domain in DOMAINS if ("mask", domain) in known
    )
    text, expected = "gain of the mask prompt by domain", "clutter and dark above all others"
    if len([key for key in known if key[0] == "mask"]) < len(DOMAINS):
        yield Row("e", text, expected, listed, "not measured")
    else:
        least = min(known["mask", domain].value for domain in HARD)
        most = max(known["mask", domain].value for domain in OTHERS)
        yield Row(
            "e", text, expected, listed, "holds" if least > most else "fails", known["mask", "dark"].seeds
        )
    mask, context = (results.right(_runs(results, method, "temporal")) for method in ("mask", "context"))
    difference = None if mask is None or context is None else paired(mask, context)
    text = "context minus mask prompt, temporal"
    yield _row("e", text, "above 0 in 95 % (paired)", difference, lambda value: value.low > 0)


def _consistency(results: Results) -> Iterator[Row]:
    runs = {weight: [with_consistency(weight, seed) for seed in results.seeds] for weight in CONSISTENCY}
    found = {weight: results.present(each) for weight, each in runs.items()}
    if not all(found.values()):
        yield Row("f", "agreement of frames by weight of the consistency loss", "rises", "", "not measured")
        return
    agreement = {
        weight: float(np.mean([each["agreement"] for each in found[weight]])) for weight in CONSISTENCY
    }
    listed = "; ".join(f"{weight:g}: {value:.3f}" for weight, value in agreement.items())
    rises = bool(np.all(np.diff(list(agreement.values())) > 0))
    seeds = min(map(len, found.values()))
    text = "mean cosine of two frames of a video by weight"
    yield Row("f", text, "rises with the weight", listed, "holds" if rises else "fails", seeds)
    none = results.right(runs[0.0])
    for weight in CONSISTENCY[1:]:
        other = results.right(runs[weight])
        if none is None or other is None:
            continue
        yield _row("f", f"top-1, weight {weight:g} minus weight 0, clutter", "", paired(none, other), None)
    precision = "; ".join(
        f"{weight:g}: {mask_value(results, 'average_precision', each)}" for weight, each in runs.items()
    )
    yield Row("f", "average precision of the mask by weight", "", precision, "reported", seeds)


def accuracies(results: Results, domain: str) -> dict[str, Value]:
    """Return the measured top-1 of each method on a domain, the best first."""
    found: dict[str, Value] = {}
    for method in METHODS:
        seeds = results.seeds if method in seeds_of else results.seeds[:1]
        runs = [trained(method, world_set(domain), seed) for seed in seeds]
        value = results.accuracy(runs)
        if value is not None:
            found[method] = value
        if "zero_shot" not in found and (zero := results.accuracy(runs, "zero_shot")) is not None:
            found["zero_shot"] = zero
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def _methods(results: Results) -> Iterator[Row]:
    for domain in DOMAINS:
        ranked = accuracies(results, domain)
        listed = " > ".join(f"{method} {value.value:.2f}" for method, value in ranked.items())
        missing = len(METHODS) + 1 - len(ranked)
        state: State = "not measured" if not ranked else "reported"
        expected = "EV-CLIP first" if domain in HARD else ""
        if expected and not missing:
            state = "holds" if next(iter(ranked)) in EV_CLIP else "fails"
        note = f" ({missing} methods not measured)" if missing and ranked else ""
        yield Row("g", f"order of the methods, {domain}", expected, listed + note, state)


def factor_by_dial(results: Results, domain: str, factor: str) -> list[float]:
    """Return the mean of a factor at each measured dial."""
    records = results.present(Experiment("factors", world_set(domain, dial)) for dial in DIALS)
    return [float(np.mean(record["factors"][factor])) for record in records]


def _dials(results: Results) -> Iterator[Row]:
    for domain in DIAL_DOMAINS:
        factor, direction = FACTOR_OF_DIAL[domain]
        means = factor_by_dial(results, domain, factor)
        text = f"{factor.replace('_', ' ')} at dial 0 to 1, {domain}"
        expected = "falls" if direction < 0 else "rises"
        listed = ", ".join(f"{mean:.3g}" for mean in means)
        is_whole = len(means) == len(DIALS)
        moves = bool(np.all(np.diff(means) * direction > 0))
        state: State = "not measured" if not is_whole else "holds" if moves else "fails"
        yield Row("h", text, expected, listed, state)
        for predictor in ("zero_shot", "adapted"):
            found = [
                results.accuracy([trained("both", world_set(domain, dial), results.seeds[0])], predictor)
                for dial in DIALS
            ]
            known = [value for value in found if value is not None]
            name = "zero-shot" if predictor == "zero_shot" else "EV-CLIP (both prompts)"
            listed = ", ".join(f"{value.value:.2f}" for value in known)
            is_whole = len(known) == len(DIALS)
            falls = is_whole and known[0].low > known[-1].high
            state = "not measured" if not is_whole else "holds" if falls else "fails"
            if predictor == "adapted" and is_whole:
                state = "reported"
            expected = "lower at 1 than at 0, intervals apart" if predictor == "zero_shot" else ""
            yield Row("h", f"top-1 of {name} at dial 0 to 1, {domain}", expected, listed, state, 1)


def _search(results: Results) -> Iterator[Row]:
    found = results.present(study(number) for number in range(STUDIES))
    texts = ("best of the search, validation minus test", "corrected score minus test")
    for text, key in zip(texts, ("best", "corrected"), strict=True):
        if len(found) < 2:
            yield Row("i", text, "", "", "not measured")
            continue
        test = np.array([_test_accuracy(record) for record in found])
        gaps = np.array([record[key] for record in found]) - test
        half = 1.96 * gaps.std(ddof=1) / np.sqrt(len(gaps))
        value = Value(float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half), len(gaps))
        holds = (lambda v: v.low > 0) if key == "best" else (lambda v: abs(v.value) <= 0.02)
        expected = "above 0 (optimism)" if key == "best" else "within 0.02 of 0"
        yield _row("i", f"{text}, {len(gaps)} studies", expected, value, holds)
        covered = np.array([_is_covered(record, key) for record in found])
        low, high = wilson_interval(float(covered.sum()), len(covered))
        share = Value(float(covered.mean()), low, high, len(covered))
        name = "the corrected interval" if key == "corrected" else "the plain interval of the best"
        yield _row(
            "i",
            f"coverage of {name}",
            "0.93 to 0.97 within its interval" if key == "corrected" else "",
            share,
            (lambda v: v.low <= 0.97 and v.high >= 0.93) if key == "corrected" else None,
        )


def _is_covered(record: Mapping[str, Any], key: str) -> bool:
    """Return whether a score's interval contains the test accuracy, which is itself a mean of few videos.

    The distance of both is compared with the root of the sum of squares of the two half intervals between
    them: an interval of the score is one of the true accuracy, not of that of 240 videos.
    """
    test, score = _test_accuracy(record), record[key]
    low, high = record[f"{key}_interval"]
    test_low, test_high = accuracy_interval(answers_of(record), np.array(record["test"]["groups"]))
    halves = (score - low, test_high - test) if test < score else (high - score, test - test_low)
    return bool(abs(score - test) <= np.hypot(*halves))


def _test_accuracy(record: Mapping[str, Any]) -> float:
    return float(answers_of(record).mean())


def _scaling(results: Results) -> Iterator[Row]:
    by_shots = [results.right(_runs(results, "both", "clutter", shots=shots)) for shots in ALL_SHOTS]
    yield _rising("top-1 of EV-CLIP over K = 1, 2, 4, 8, 16, clutter", by_shots)
    names = ", ".join(SIZES)
    plain = [results.right([zero_shot_on(world_set("plain"), size)], "zero_shot") for size in SIZES]
    yield _rising(f"top-1 of zero-shot over {names}, plain", plain)
    for domain in SIZE_DOMAINS:
        for predictor, name in (("zero_shot", "zero-shot"), ("adapted", "EV-CLIP")):
            sizes = [
                results.right([of_size(size, domain, seed) for seed in results.seeds], predictor)
                for size in SIZES
            ]
            yield _rising(f"top-1 of {name} over {names}, {domain}", sizes)


def _rising(text: str, values: Sequence[PerVideo | None]) -> Row:
    known = [value for value in values if value is not None]
    listed = ", ".join(f"{value.accuracy.value:.2f}" for value in known)
    expected, seeds = "last above first in 95 % (paired)", min([value.seeds for value in known], default=0)
    if len(known) < len(values):
        return Row("j", text, expected, listed, "not measured", seeds)
    gain = paired(known[0], known[-1])
    return Row("j", text, expected, f"{listed}; {gain}", "holds" if gain.low > 0 else "fails", seeds)


_ROWS = (_pretraining, _few_shot, _masks, _prompts, _consistency, _methods, _dials, _search, _scaling)
