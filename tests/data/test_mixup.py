import pytest
import torch

from evclip_ray.data.mixup import mix


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_video_is_overlaid_with_its_partner_by_the_share():
    pixels = torch.rand(5, 2, 3, 4, 4)
    mixed = mix(pixels, alpha=0.8, generator=seeded())
    assert sorted(mixed.partners.tolist()) == list(range(5))
    assert 0 < mixed.share < 1
    expected = mixed.share * pixels + (1 - mixed.share) * pixels[mixed.partners]
    assert torch.allclose(mixed.pixels, expected, atol=1e-6)


def test_the_loss_is_that_of_the_mixed_label():
    logits, labels = torch.randn(6, 4), torch.randint(0, 4, (6,))
    mixed = mix(torch.rand(6, 1, 3, 2, 2), alpha=1.0, generator=seeded(3))
    own, partner = (
        {"ce": torch.nn.functional.cross_entropy(logits, one), "regulariser": torch.tensor(0.25)}
        for one in (labels, labels[mixed.partners])
    )
    soft = torch.nn.functional.one_hot(labels, 4).float()
    soft = mixed.share * soft + (1 - mixed.share) * soft[mixed.partners]
    terms = mixed.loss_terms(own, partner)
    assert terms["ce"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, soft).item(), rel=1e-5
    )
    assert terms["regulariser"].item() == pytest.approx(0.25)


def test_shares_follow_their_distribution_and_a_seed_is_one_mix():
    pixels = torch.rand(3, 1, 3, 2, 2)
    shares = torch.tensor([mix(pixels, alpha=0.3, generator=seeded(seed)).share for seed in range(500)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert shares.var().item() == pytest.approx(1 / (4 * 1.6), rel=0.1)
    first, again = (mix(pixels, alpha=0.3, generator=seeded(7)) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
