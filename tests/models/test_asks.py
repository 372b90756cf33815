"""Computations that wait for the frozen networks."""

import contextlib

import pytest
import torch

from evclip_ray.models.asks import AskFrameFeatures, AskVideoMap, converse, within
from evclip_ray.models.clip import load_clip
from evclip_ray.models.video_encoder import load_video_encoder


def adding(total=0):
    for question in ("one", "two"):
        total += yield question
    return total


def test_a_conversation_returns_what_its_answers_lead_to():
    asked = []
    assert converse(adding(), lambda question: asked.append(question) or len(asked)) == 3
    assert asked == ["one", "two"]


def test_an_answer_that_cannot_be_given_closes_the_computation():
    closed = []

    def computing():
        with contextlib.ExitStack() as stack:
            stack.callback(closed.append, True)
            yield "impossible"

    with pytest.raises(KeyError):
        converse(computing(), {}.__getitem__)
    assert closed


def test_surroundings_are_left_while_a_computation_waits():
    inside = []

    @contextlib.contextmanager
    def room():
        inside.append(True)
        yield
        inside.pop()

    def computing():
        assert inside
        answer = yield "question"
        assert inside
        return answer

    steps = within(room, computing())
    assert next(steps) == "question"
    assert not inside, "whoever computes meanwhile is not in it"
    with pytest.raises(StopIteration) as end:
        steps.send(7)
    assert end.value.value == 7
    assert not inside


def test_answers_together_are_the_answers_alone_and_so_are_the_gradients():
    torch.manual_seed(0)
    clip = load_clip("debug", "random")
    # Different numbers of videos and of frames.
    images = [torch.rand(*shape, 3, 64, 64, requires_grad=True) for shape in ((2, 4), (1, 6), (3, 4))]
    alone = [AskFrameFeatures(clip, each).answer() for each in images]
    wanted = [
        torch.autograd.grad(each.square().sum(), image)[0] for each, image in zip(alone, images, strict=True)
    ]
    together = AskFrameFeatures.answer_together([AskFrameFeatures(clip, each) for each in images])
    torch.autograd.backward([each.square().sum() for each in together])
    for index, image in enumerate(images):
        torch.testing.assert_close(together[index], alone[index])
        torch.testing.assert_close(image.grad, wanted[index])


def test_what_is_no_number_in_one_answer_stays_in_it():
    clip = load_clip("debug", "random")
    good, bad = torch.rand(2, 4, 3, 64, 64, requires_grad=True), torch.full((1, 4, 3, 64, 64), torch.nan)
    answers = AskFrameFeatures.answer_together([AskFrameFeatures(clip, each) for each in (good, bad)])
    torch.autograd.backward([answers[0].sum(), (answers[1] * torch.nan).sum()], inputs=[good])
    assert torch.isfinite(answers[0]).all()
    assert torch.isfinite(good.grad).all()


def test_pixels_that_two_share_are_encoded_once():
    encoder = load_video_encoder("swin3d_debug", "random")
    shared, other = torch.rand(2, 4, 3, 64, 64), torch.rand(1, 4, 3, 64, 64)
    asks = [AskVideoMap(encoder, pixels) for pixels in (shared, other, shared)]
    maps = AskVideoMap.answer_together(asks)
    assert maps[0] is maps[2]
    for ask, found in zip(asks, maps, strict=True):
        torch.testing.assert_close(found, ask.answer())


def test_networks_and_sizes_that_differ_are_not_answered_together():
    clip, encoder = load_clip("debug", "random"), load_video_encoder("swin3d_debug", "random")
    frames = torch.rand(1, 4, 3, 64, 64)
    key = AskFrameFeatures(clip, frames).key
    assert key == AskFrameFeatures(clip, torch.rand(2, 8, 3, 64, 64)).key
    assert key != AskFrameFeatures(load_clip("debug", "random", dtype=torch.bfloat16), frames).key
    assert AskVideoMap(encoder, frames).key != AskVideoMap(encoder, torch.rand(1, 8, 3, 64, 64)).key
