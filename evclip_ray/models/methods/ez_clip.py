"""EZ-CLIP (Ahmad et al. 2023, arXiv 2312.08010, first published as T2L): temporal prompts and adapters.

In block l of the image tower:

    q_t = P_{l,t} + mean over tokens of X_t                one query per frame
    q   = MHA(LN1(q))                                      over time, no residual
    X_t = X_t + MHA(LN1([X_t, q_t])) without the token of q_t
    X_t = A(X_t),  A(x) = x + W2 GELU(W1 x)
    X_t = X_t + MLP(LN2(X_t))

    v    = L2(mean_t f_t)
    loss = matching(v, class texts) + motion_weight * motion(f)

where
    X_t            tokens of frame t, (L, W)
    P_{l,t}        temporal prompt, (W,), trained
    A              adapter, trained; the text blocks have it as well, before their MLP
    MHA, LN, MLP   frozen parts of the block
    f_t            frame feature of frame t, (D,), un-normalised

The released code has a second kind of temporal part, the option `T_Adapter` of its ablation, here
`temporal_adapters`. With it, a block without prompts begins with

    x'_l = A'(MHA(LN1(x_l)))                               over the frames of each token position l
    X    = X + x'

where
    x_l            tokens at position l of all frames of a video, (T, W)
    A'             adapter without the skip, W2 GELU(W1 x), trained

The release computes x' with the frames first and adds it to tokens with the videos first (`frame_layout`):
the change of frame t of video b is added to the row t B + b instead of b T + t. The layouts agree for one
video or one frame. In a batch, the released one mixes the frames of different videos.

Departures from the published code: `drop_path` grows linearly over the blocks and drops the branch of a frame
(or text). The published tokens have the sequence first, so the same call drops one token position of the
whole batch. The published code also drops attention weights at these rates; this one does not.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from evclip_ray.formatting import counted
from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.adapter import Adapter
from evclip_ray.models.layers.class_descriptions import read_descriptions
from evclip_ray.models.layers.class_text import (
    TextClassifier,
    class_logits,
    class_texts,
    mean_feature,
)
from evclip_ray.models.layers.frames import prepare_frames
from evclip_ray.models.layers.gather import gather_rows
from evclip_ray.models.layers.text_cache import TextFeatureCache, encode_in_chunks
from evclip_ray.models.layers.towers import Block, ImageTower, TextTower, attention_branch, mlp_branch
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.ez_clip import EZCLIPConfig, FrameLayout, Prompts
from evclip_ray.models.setting_types import Normalization

log = logging.getLogger(__name__)


# The published initialisation uses the fan-in of 16-pixel patches for every backbone.
_PATCH_VALUES = 3 * 16 * 16
# Logit of a matching pair in the target distribution, as published.
_SHARPNESS = 10.0


class EZCLIP(Method):
    """EZ-CLIP. Trains adapters and `temporal_prompts`, (1 or number of blocks, T, W).

    Args:
        frozen: Frozen networks.
        tokens: (N, L) int64, tokenised class texts.
        num_frames: T; temporal prompts bind the method to it.
        prompts: As in the config.
        temporal_adapters: As in the config.
        frame_layout: As in the config.
        adapter_ratio: As in the config.
        motion_weight: As in the config.
        drop_path: As in the config.
        prompt_dropout: As in the config.
        normalization: As in the config.
    """

    # A step encodes the texts of the classes in its batch, whose number differs.
    has_fixed_shapes = False

    def __init__(
        self,
        frozen: Frozen,
        *,
        tokens: Tensor,
        num_frames: int,
        prompts: Prompts = "deep",
        temporal_adapters: bool = False,
        frame_layout: FrameLayout = "by_video",
        adapter_ratio: float = 0.25,
        motion_weight: float = 1.0,
        drop_path: float = 0.0,
        prompt_dropout: float = 0.0,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        clip = frozen.clip
        self.image_tower = ImageTower(clip.model.visual, name=clip.name, method="ez_clip")
        self.text_tower = TextTower(clip.model, name=clip.name, method="ez_clip")
        self.image_adapters = _adapters(self.image_tower, adapter_ratio)
        self.text_adapters = _adapters(self.text_tower, adapter_ratio)
        self.temporal_adapters = None
        if temporal_adapters:
            self.temporal_adapters = _adapters(self.image_tower, adapter_ratio, skip=False)
        self.frame_layout = frame_layout
        self.temporal_prompts = None
        if prompts != "none":
            depth, width = (self.image_tower.depth if prompts == "deep" else 1), self.image_tower.width
            bound = (6 / (_PATCH_VALUES + width)) ** 0.5
            self.temporal_prompts = nn.Parameter(
                torch.empty(depth, num_frames, width).uniform_(-bound, bound)
            )
        self.register_buffer("tokens", tokens, persistent=False)
        self.tokens: Tensor
        self.num_frames = num_frames
        self.motion_weight = motion_weight
        self.drop_path = drop_path
        self.prompt_dropout = prompt_dropout
        self.normalization = normalization
        self.text_cache = TextFeatureCache()

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos. With `batch.labels`, logits of classes outside the batch are -inf.

        Encoding 400 class texts costs eight times as much as a video (ViT-B/16). The loss needs only the
        texts of the batch.
        """
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        frames = self.encode_frames(images)
        video_features = mean_feature(frames)
        classes, text_features = self._texts(batch)
        known = class_logits(self.frozen.clip, video_features, text_features)
        logits = known
        if batch.labels is not None:
            # -inf leaves the other classes out of a softmax. They are not encoded, so they have no logit.
            every = known.new_full((len(known), len(self.tokens)), -torch.inf)
            logits = every.index_copy(1, classes, known)
        return MethodOutput(
            logits=logits,
            frame_features=frames,
            video_features=video_features,
            extra={"text_features": text_features, "classes": classes},
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `matching` and `motion`, both over the videos of all workers."""
        assert output.frame_features is not None
        assert output.video_features is not None
        # `classes` is sorted, so the search gives the row of each label: one text per video, (b, D).
        texts = output.extra["text_features"][torch.searchsorted(output.extra["classes"], labels)]
        logits = class_logits(self.frozen.clip, gather_rows(output.video_features), gather_rows(texts))
        terms = {"matching": matching_loss(logits, gather_rows(labels))}
        if self.motion_weight > 0:
            terms["motion"] = self.motion_weight * motion_loss(output.frame_features)
        return terms

    def text_classifier(self) -> TextClassifier | None:
        """Return the encoded class names."""
        return TextClassifier.of(self.frozen.clip, self._texts(VideoBatch(None))[1])

    def encode_frames(self, images: Tensor) -> Tensor:
        """Map prepared frames (B, T, 3, S, S) to frame features (B, T, D), un-normalised.

        Raises:
            ValueError: T differs from the number of frames that the temporal parts were built for.
        """
        is_temporal = self.temporal_prompts is not None or self.temporal_adapters is not None
        if is_temporal and images.shape[1] != self.num_frames:
            raise ValueError(
                f"the temporal parts of ez_clip are for {counted(self.num_frames, 'frame')}, got "
                f"{images.shape[1]}; give as many frames as it was trained with"
            )
        return self.image_tower.project(self.image_tower.encode(images, self.image_block))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Map tokens (M, L) int64 to text features (M, D), un-normalised."""
        return self.text_tower.encode(self.text_tower.embed(tokens), tokens, self._text_block)

    def image_block(self, index: int, block: Block, tokens: Tensor) -> Tensor:
        """Return the tokens after one block of the image tower as EZ-CLIP runs it, (B T, L, W)."""
        rate = self._rate(index, self.image_tower.depth)
        if self.temporal_adapters is not None:
            tokens = tokens + self._dropped(self._change_over_time(index, block, tokens), rate)
        query = self._temporal_query(index, block, tokens, rate)
        context = tokens if query is None else torch.cat([tokens, query], dim=1)
        # The query's own token is read by the others and then dropped.
        branch = attention_branch(block, context)[:, : tokens.shape[1]]
        tokens = self.image_adapters[index](tokens + self._dropped(branch, rate))
        return tokens + self._dropped(mlp_branch(block, tokens), rate)

    def _texts(self, batch: VideoBatch) -> tuple[Tensor, Tensor]:
        if batch.labels is not None:
            # Sorted in both cases, which `losses` relies on. `unique` waits for a GPU.
            classes = batch.labels.unique() if batch.classes is None else batch.classes
            return classes, self._text_features(self.tokens[classes])
        classes = torch.arange(len(self.tokens), device=self.tokens.device)
        return classes, self.text_cache(
            self.text_adapters.parameters(), lambda: self._text_features(self.tokens)
        )

    def _text_features(self, tokens: Tensor) -> Tensor:
        return encode_in_chunks(lambda chunk: F.normalize(self.encode_text(chunk).float(), dim=-1), tokens)

    def _temporal_query(self, index: int, block: Block, tokens: Tensor, rate: float) -> Tensor | None:
        if self.temporal_prompts is None or index >= len(self.temporal_prompts):
            return None
        prompt = F.dropout(self.temporal_prompts[index], self.prompt_dropout, self.training)
        # (B T, L, W) -> (B T, W) -> (B, T, W): one query per frame, which attend to each other over time.
        query = prompt + tokens.mean(1).unflatten(0, (-1, self.num_frames))
        query = self._dropped(attention_branch(block, query.to(tokens.dtype)), rate)
        return query.flatten(0, 1).unsqueeze(1)

    def _change_over_time(self, index: int, block: Block, tokens: Tensor) -> Tensor:
        assert self.temporal_adapters is not None
        # (B T, L, W) -> (B, L, T, W) -> (B L, T, W): attention over the frames of each token position.
        in_time = tokens.unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        change: Tensor = self.temporal_adapters[index](attention_branch(block, in_time.flatten(0, 1)))
        # (B L, T, W) -> (B, L, T, W)
        change = change.unflatten(0, in_time.shape[:2])
        if self.frame_layout == "released":
            # (B, L, T, W) -> (T, B, L, W) -> (T B, L, W): the rows of the tokens are (B T).
            return change.permute(2, 0, 1, 3).flatten(0, 1)
        # (B, L, T, W) -> (B, T, L, W) -> (B T, L, W)
        return change.transpose(1, 2).flatten(0, 1)

    def _text_block(self, index: int, block: Block, words: Tensor) -> Tensor:
        rate = self._rate(index, self.text_tower.depth)
        words = words + self._dropped(self.text_tower.attention_branch(block, words), rate)
        words = self.text_adapters[index](words)
        return words + self._dropped(mlp_branch(block, words), rate)

    def _rate(self, index: int, depth: int) -> float:
        # Early blocks are kept: what they drop is missing in all later ones.
        return self.drop_path * index / max(1, depth - 1)

    def _dropped(self, branch: Tensor, rate: float) -> Tensor:
        dropped: Tensor = stochastic_depth(branch, rate, "row", self.training)
        return dropped


def _adapters(tower: ImageTower | TextTower, ratio: float, *, skip: bool = True) -> nn.ModuleList:
    return nn.ModuleList(Adapter(tower.width, ratio=ratio, skip=skip) for _ in range(tower.depth))


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the matching loss of a batch, symmetric in videos and texts (arXiv 2312.08010).

        (KL(target || softmax over texts) + KL(target || softmax over videos)) / 2
        target_ij = softmax_j(10 [y_i = y_j])

    averaged over rows. Videos of one class share their texts, so a row has several targets.

    Args:
        logits: (B, B), videos by the texts of the same batch.
        labels: (B,) int64.
    """
    # Row i has a target of exp(10) for each video of the same class and of 1 for the others, before
    # normalisation.
    same = labels[:, None] == labels[None, :]
    target = (_SHARPNESS * same).softmax(1)
    return (_divergence(logits, target) + _divergence(logits.T, target)) / 2


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean")


def motion_loss(frame_features: Tensor) -> Tensor:
    """Return the motion loss, in (0, 1]; it falls as the frames of a video differ more (arXiv 2312.08010).

        1 / (1 + C + V)

    where
        C    mean of |f_{t+1} - f_{t-1}| / 2, with the first and the last frame repeated
        V    mean of the unbiased variance of f_t over time

    C and V are averaged over the batch before the quotient. A still video gives 1, white noise (T = 8) 0.390.

    Args:
        frame_features: (B, T, D), un-normalised.
    """
    frames = frame_features.float()
    if frames.shape[1] == 1:
        return frames.new_ones(())
    # Repeating the ends gives a central difference for every frame.
    padded = torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1)
    change = (padded[:, 2:] - padded[:, :-2]).abs().mean((1, 2)) / 2
    variance = frames.var(1).mean(1)
    return 1 / (1 + gather_rows(change + variance).mean())


def build(
    config: EZCLIPConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> EZCLIP:
    """Return the module. Class texts are tokenised here and encoded in every step."""
    texts = class_texts(class_names, config.template)
    if config.descriptions is not None:
        texts = read_descriptions(Path(config.descriptions), class_names)
    if config.frame_layout == "released":
        log.warning(
            "method.frame_layout=released mixes the frames of the videos of a batch: scores depend on "
            "the batch size and on the order of the videos"
        )
    return EZCLIP(
        frozen,
        tokens=frozen.clip.tokenize(texts, allow_truncation=config.allow_truncation),
        num_frames=num_frames,
        prompts=config.prompts,
        temporal_adapters=config.temporal_adapters,
        frame_layout=config.frame_layout,
        adapter_ratio=config.adapter_ratio,
        motion_weight=config.motion_weight,
        drop_path=config.drop_path,
        prompt_dropout=config.prompt_dropout,
        normalization=config.normalization,
    )
