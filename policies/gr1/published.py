"""GR-1 as published: computes what bytedance/GR-1 (Apache-2.0) computes, with its parameter names.

Wu et al., "Unleashing Large-Scale Video Generative Pre-training for Visual Robot Manipulation", arXiv 2312.13139.
What is easily got wrong, how agreement was measured, and how to convert the released weights: docs/gr1.md.

Tokens of one step, in order; each sees itself, those before it, and all of earlier steps:
    language | state | static: 9 patches, picture | wrist: 9 patches, picture || action query | 10 + 10 image queries
Nobody ever sees a query, not even itself:
                step 0   step 1
    step 0      tril     0           columns: context tokens; padded frames (on the right) are never seen
    step 1      1        tril
    queries 0   1        0
    queries 1   1        1

Shape legend: N frames, B windows, T frames of a window, P patches of a picture, V width of their features, L latents,
F tokens of a frame without language (21), C = T (F + 1) context tokens, Q queries, D width of the trunk,
K actions of a chunk, A action size, S state size, Y values of a patch (row, column, channel), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import pack, rearrange, repeat
from torch import Tensor, nn

from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_losses import loss_counts, published_losses
from foreact.policies.gr1.published_parts import MaeEncoder, Resampler, Trunk, VitBlock
from foreact.policies.gr1.published_towers import build_towers, small_text
from foreact.policies.gr1.tokens import published_tokens
from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.explain_tokens import TokenMap
from foreact.vla.frozen_vision import FrozenVision, freeze
from foreact.vla.layers import sincos_positions
from foreact.vla.policy import Plan
from foreact.vla.text import ClipText, TextTower
from foreact.vla.trainable import Statistics, TrainablePolicy
from foreact.vla.vision import IMAGENET_MEAN, IMAGENET_STD, Features


class PublishedGR1(TrainablePolicy):
    """The published policy. Its contract decides what it has of it: the first camera is the static one, a second the
    wrist's; the last number of state and of action is the gripper. Without actions it only watches video."""

    name = "gr1_published"
    config_class = PublishedGR1Config
    mean: Tensor
    std: Tensor
    decoder_pos_embed: Tensor

    def __init__(
        self,
        config: PublishedGR1Config,
        contract: Contract,
        statistics: Statistics,
        *,
        text: TextTower | None = None,
    ):
        """Build with random weights.

        Args:
            config: Sizes and weights of the losses.
            contract: What it requires of an environment, see above.
            statistics: Kept, but not used: the network reads the state as it is.
            text: Text tower. Without one, both frozen towers come from `config.towers`.

        Raises:
            ConfigError: If the contract has other parts than the network can have, or towers are not to be had.
        """
        super().__init__(config, contract, statistics)
        _check(contract)
        self.config = config
        self.cameras = tuple(camera.name for camera in contract.cameras)
        D, V = config.width, config.vision_width

        self.model_mae = MaeEncoder(
            config.image_size, config.patch_size, width=V, layers=config.vision_layers, heads=config.vision_heads
        )
        self.text = build_towers(config, self.model_mae) if text is None else text
        self.text.eval().requires_grad_(False)
        self.perceiver_resampler = Resampler(
            V, depth=config.resampler_depth, heads=config.resampler_heads, head_width=config.resampler_head_width,
            latents=config.resampler_latents,
        )  # fmt: skip

        self.embed_lang = nn.Linear(config.text_width, D)
        self.embed_timestep = nn.Embedding(config.history, D)
        self.embed_img = nn.Linear(V, D)
        self.embed_patch = nn.Linear(V, D)
        self.obs_queries = nn.Embedding(config.image_queries, D)
        if len(self.cameras) == 2:
            self.embed_hand_img = nn.Linear(V, D)
            self.embed_hand_patch = nn.Linear(V, D)
            self.obs_hand_queries = nn.Embedding(config.image_queries, D)
        if contract.state:
            self.embed_arm_state = nn.Linear(contract.state_size - 1, D)
            self.embed_gripper_state = nn.Linear(2, D)
            self.embed_state = nn.Linear(2 * D, D)
        self.embed_ln = nn.LayerNorm(D)

        self.transformer = Trunk(
            D, layers=config.layers, heads=config.heads, dropout=config.dropout, positions=config.positions
        )

        if contract.action:
            self.action_queries = nn.Embedding(1, D)
            if config.chunk_queries:
                self.action_chunk_queries = nn.Embedding(config.chunk, D)
                nn.init.zeros_(self.action_chunk_queries.weight)
            self.pred_act_mlps = nn.ModuleList([nn.Linear(D, D // 2), nn.Linear(D // 2, D // 2)])
            self.pred_arm_act = nn.Linear(D // 2, contract.action_size - 1)
            self.pred_gripper_act = nn.Linear(D // 2, 1)

        self.decoder_embed = nn.Linear(D, D)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, D))
        self.decoder_blocks = nn.ModuleList(VitBlock(D, config.decoder_heads) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(D)
        self.decoder_pred = nn.Linear(D, 3 * config.patch_size**2)
        side = config.image_size // config.patch_size
        self.register_buffer("decoder_pos_embed", sincos_positions(side, side, D)[None])
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> PublishedGR1:
        """The frozen towers stay in evaluation mode."""
        super().train(mode)
        self.text.eval()
        return self

    # --- frames: everything that depends on one control step alone, so that a runtime can cache it ---------------

    def preprocess(self, images_NHWC: Tensor) -> Tensor:
        """uint8 pictures (N, H, W, 3) to network pixels (N, 3, 224, 224), normalised as for ImageNet.

        Bicubic without antialiasing and without clamping, as torchvision 0.13 resizes tensors: values can leave [0, 1].
        """
        pixels = rearrange(images_NHWC.float() / 255.0, "n h w c -> n c h w")
        size = (self.config.image_size, self.config.image_size)
        pixels = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=False)
        return (pixels - self.mean) / self.std

    def encode_camera(self, images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pictures (N, H, W, 3) to the frozen encoder's picture token (N, V) and patches (N, P, V)."""
        return self.model_mae(self.preprocess(images_NHWC))

    def resample(self, patches_NPV: Tensor) -> Tensor:
        """Patches (N, P, V) to latents (N, L, V); one resampler for both cameras."""
        return self.perceiver_resampler(patches_NPV)

    def embed_view(self, camera: str, picture_NV: Tensor, latents_NLV: Tensor) -> Tensor:
        """Tokens (N, L + 1, D) of one camera: latents, then the picture token."""
        hand = camera != self.cameras[0]
        of_patch, of_picture = (
            (self.embed_hand_patch, self.embed_hand_img) if hand else (self.embed_patch, self.embed_img)
        )
        return pack([of_patch(latents_NLV), of_picture(picture_NV)], "n * d")[0]

    def embed_robot(self, state_NS: Tensor) -> Tensor:
        """Raw state (N, S) to its token (N, 1, D): arm as it is, gripper command as closed (-1) or open (+1)."""
        opened = F.one_hot((state_NS[:, -1] > 0).long(), 2).to(state_NS.dtype)
        parts, _ = pack([self.embed_arm_state(state_NS[:, :-1]), self.embed_gripper_state(opened)], "n *")
        return self.embed_state(parts)[:, None]

    def frozen_vision(self) -> FrozenVision:
        """See `TrainablePolicy.frozen_vision`."""
        size = self.config.image_size
        prepared = f"bicubic to {size} without antialiasing, ImageNet's mean and spread; 1"
        shape = (1 + (size // self.config.patch_size) ** 2, self.config.vision_width)
        return freeze(self.model_mae, prepared, shape, lambda images: pack(self.encode_camera(images), "n * v")[0])

    def encode_frames(
        self, images: Mapping[str, Tensor], state_NS: Tensor, state_mask_N: Tensor, features: Features = None
    ) -> Tensor:
        """Tokens of N frames (N, F, D), before time and language.

        Args:
            images: Camera name -> (N, H, W, 3) uint8; not looked at where there are `features` of them.
            state_NS: (N, S) contract state.
            state_mask_N: Not used: an unknown state is read as the zeros that padding has, with a closed gripper.
        """
        tokens = [self.embed_robot(state_NS.float())] if self.contract.state else []
        for camera in self.cameras:
            if features is None:
                picture_NV, patches_NPV = self.encode_camera(images[camera])
            else:
                picture_NV, patches_NPV = features[camera][:, 0].float(), features[camera][:, 1:].float()
            tokens.append(self.embed_view(camera, picture_NV, self.resample(patches_NPV)))
        return torch.cat([token.float() for token in tokens], dim=1)

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Language tokens (B, D); each different sentence is encoded once."""
        unique = sorted(set(sentences))
        vectors_UD = self.embed_lang(self.text(unique).to(self.embed_lang.weight.dtype)).float()
        rows = torch.tensor([unique.index(sentence) for sentence in sentences], device=vectors_UD.device)
        return vectors_UD[rows]

    # --- trunk -----------------------------------------------------------------------------------------------------

    def embed(self, frames_BTFD: Tensor, language_BD: Tensor) -> Tensor:
        """Context tokens (B, T, F + 1, D) as the trunk reads them: language at every step, time added, normed."""
        T = frames_BTFD.shape[1]
        language = repeat(language_BD, "b d -> b t 1 d", t=T)
        return self.embed_ln(torch.cat([language, frames_BTFD], dim=2) + self.embed_timestep.weight[:T, None])

    def action_query(self) -> Tensor:
        """Queries of one step's actions (K, D), as the trunk reads them: no time is added to queries."""
        queries = self.action_queries.weight
        return self.embed_ln(queries + self.action_chunk_queries.weight if self.config.chunk_queries else queries)

    def image_query(self, camera: str) -> Tensor:
        """Queries of one step's future frame (L + 1, D), as the trunk reads them."""
        hand = camera != self.cameras[0]
        return self.embed_ln(self.obs_hand_queries.weight if hand else self.obs_queries.weight)

    def trunk(
        self, context_BTFD: Tensor, mask_BT: Tensor, queries_QD: Tensor, step_BQ: Tensor, place_Q: Tensor
    ) -> Tensor:
        """Outputs of the queries (B, Q, D). Queries that are not asked change no other output.

        Args:
            context_BTFD: From `embed`; F + 1 tokens per step.
            mask_BT: True for frames that exist; those come first.
            queries_QD: From `action_query` and `image_query`, repeated for the steps that are asked.
            step_BQ: (B, Q) int: the frame at which each query asks.
            place_Q: (Q,) int: its place among the queries of a step; only read by networks with a position table.
        """
        B, T, F1, _ = context_BTFD.shape
        C, device = T * F1, context_BTFD.device
        step_C = torch.arange(T, device=device).repeat_interleave(F1)
        causal_CC = torch.ones(C, C, dtype=torch.bool, device=device).tril()
        asks_BQC = step_C <= step_BQ[..., None]
        mask_BNC = torch.cat([causal_CC.expand(B, -1, -1), asks_BQC], dim=1) & mask_BT[:, None, step_C]

        stride = F1 + len(self.cameras) * self.config.image_queries + (self.config.chunk if self.contract.action else 0)
        place_C = step_C * stride + torch.arange(F1, device=device).repeat(T)
        position_BN = torch.cat([place_C.expand(B, -1), step_BQ * stride + F1 + place_Q], dim=1)

        context = rearrange(context_BTFD, "b t f d -> b (t f) d")
        x_BND = torch.cat([context, queries_QD.expand(B, -1, -1)], dim=1)
        return self.transformer(x_BND, position_BN, mask_BNC)[:, C:]

    # --- heads -----------------------------------------------------------------------------------------------------

    def act(self, x: Tensor) -> Tensor:
        """Outputs of action queries (…, D) to raw actions (…, A), the gripper last, a logit.

        The paper draws a three-layer perceptron; the authors' code has no activation between its layers.
        """
        for layer in self.pred_act_mlps:
            x = layer(x)
        return torch.cat([self.pred_arm_act(x), self.pred_gripper_act(x)], dim=-1).float()

    def decode(self, queries_NQD: Tensor) -> Tensor:
        """Outputs of one camera's image queries (N, L + 1, D) to patches of the future frame (N, P, Y).

        The patches are standardised each by itself (with `normalise_patches`), so they are no picture yet: `paint`.
        """
        blank_PD = self.mask_token[0, 0] + self.decoder_pos_embed[0]
        x, shapes = pack([self.decoder_embed(queries_NQD), blank_PD.expand(len(queries_NQD), -1, -1)], "n * d")
        for block in self.decoder_blocks:
            x = block(x)
        (n_queries,) = shapes[0]
        return self.decoder_pred(self.decoder_norm(x))[:, n_queries:]

    def patches(self, pixels_N3XX: Tensor) -> Tensor:
        """Network pixels (N, 3, 224, 224) in patches (N, P, Y)."""
        p = self.config.patch_size
        return rearrange(pixels_N3XX, "n c (i p) (j q) -> n (i j) (p q c)", p=p, q=p)

    def paint(self, patches_NPY: Tensor, current_NHWC: Tensor) -> Tensor:
        """Decoded patches to uint8 pictures of the camera's size (N, H, W, 3).

        Mean and spread of each patch are not predicted; they are borrowed from the current frame.
        """
        size = self.config.image_size // self.config.patch_size
        patches = patches_NPY.float()
        if self.config.normalise_patches:
            now = self.patches(self.preprocess(current_NHWC))
            patches = patches * now.std(dim=-1, keepdim=True) + now.mean(dim=-1, keepdim=True)
        pixels = rearrange(
            patches, "n (i j) (p q c) -> n c (i p) (j q)", i=size, p=self.config.patch_size, q=self.config.patch_size
        )
        height, width = current_NHWC.shape[1:3]
        pixels = F.interpolate(pixels * self.std + self.mean, (height, width), mode="bilinear", antialias=True)
        return rearrange((pixels.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8), "n c h w -> n h w c")

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, *, step_BI: Tensor, actions: bool, images: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Raw actions (B, I, K, A) and patches of future frames per camera (B, I, P, Y).

        Args:
            frames_BTFD: From `encode_frames`.
            language_BD: From `encode_text`.
            mask_BT: True for frames that exist; those come first.
            step_BI: (B, I) int: the frames at which is asked.
            actions: Ask for actions; else they are empty.
            images: Ask for future frames; else there are none.
        """
        (B, steps), device = step_BI.shape, step_BI.device
        K = self.config.chunk if self.contract.action else 0
        first = {}  # camera -> place of its first query; the action queries of a step have the first K places
        asked = [(self.action_query(), 0)] if actions and K else []
        for number, camera in enumerate(self.cameras if images else ()):
            first[camera] = K + number * self.config.image_queries
            asked.append((self.image_query(camera), first[camera]))
        if not asked:
            return frames_BTFD.new_zeros(B, steps, self.config.chunk, 0), {}
        x_BQD = self.trunk(
            self.embed(frames_BTFD, language_BD),
            mask_BT,
            torch.cat([queries.repeat(steps, 1) for queries, _ in asked]),
            torch.cat([step_BI.repeat_interleave(len(queries), dim=1) for queries, _ in asked], dim=1),
            torch.cat([torch.arange(len(q), device=device).repeat(steps) + place for q, place in asked]),
        )
        parts = list(x_BQD.split([steps * len(queries) for queries, _ in asked], dim=1))
        raw = frames_BTFD.new_zeros(B, steps, self.config.chunk, 0)
        if actions and K:
            raw = rearrange(self.act(parts.pop(0)), "b (i k) a -> b i k a", i=steps)
        pictures = {}
        for camera, part in zip(first, parts, strict=True):
            patches = self.decode(rearrange(part, "b (i q) d -> (b i) q d", i=steps))
            pictures[camera] = rearrange(patches, "(b i) p y -> b i p y", i=steps)
        return raw, pictures

    @torch.no_grad()
    def plan_from(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> Plan:
        """A plan from encoded frames and text; the arm is not clipped (nor is it by the authors), the gripper +-1."""
        last_B1 = mask_BT.sum(dim=1, keepdim=True) - 1
        raw, pictures = self.answer(
            frames_BTFD, language_BD, mask_BT, step_BI=last_B1, actions=True, images=current is not None
        )
        commands = raw[:, 0].clone()
        if self.contract.action:
            commands[..., -1] = torch.where(commands[..., -1] > 0, 1.0, -1.0)
        foresight = None
        if current is not None:
            foresight = {
                camera: self.paint(patches[:, 0], current[camera]).cpu().numpy() for camera, patches in pictures.items()
            }
        steps = 0 if current is None else self.config.foresight_steps
        return Plan(actions=commands.cpu().numpy(), foresight=foresight, foresight_steps=steps)

    def describe_tokens(self) -> TokenMap:
        """What its tokens are and where it attends, for `foreact explain`."""
        return published_tokens(self)

    # --- training ----------------------------------------------------------------------------------------------------

    def loss(self, batch: WindowBatch, counts: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Losses and metrics of one batch; "total" is what to minimise. See `published_losses`."""
        return published_losses(self, batch, counts)

    def loss_counts(self, batch: WindowBatch) -> dict[str, float]:
        """What the means of `loss` are taken over; see `published_losses.loss_counts`."""
        return loss_counts(self, batch)

    # --- the folder it lives in --------------------------------------------------------------------------------------

    def tower_files(self) -> dict[str, bytes | Callable[[Path], None]]:
        """Tokenizer and config of the text tower, so that the checkpoint runs offline."""
        return {f"text/{name}": content for name, content in self.text.files().items()}

    @classmethod
    def from_parts(cls, config: Mapping, contract: Contract, statistics: Statistics, folder: Path) -> PublishedGR1:
        sizes = PublishedGR1Config.from_dict(config)
        text = ClipText.from_files(folder / "text") if (folder / "text").is_dir() else small_text(sizes.text_width)
        return cls(sizes, contract, statistics, text=text)


def _check(contract: Contract) -> None:
    """Refuse contracts that the network has no parts for.

    Raises:
        ConfigError: Saying what was expected.
    """
    if len(contract.cameras) not in (1, 2):
        names = [camera.name for camera in contract.cameras]
        raise ConfigError(
            f"gr1_published has a static camera and at most one on the wrist, in that order; found {names}"
        )
    for kind, parts in (("state", contract.state), ("action", contract.action)):
        if parts and (parts[-1].size != 1 or len(parts) < 2):
            found = [f"{part.name} ({part.size})" for part in parts]
            raise ConfigError(
                f"gr1_published wants the arm and then the gripper as one number in the {kind}; found {found}"
            )
