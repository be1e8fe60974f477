"""GR-1's shape: a GPT-style trunk reads language, state and pictures of the last frames, and learned queries ask it
for the next actions and for future frames (Wu et al., "Unleashing Large-Scale Video Generative Pre-training for
Visual Robot Manipulation", arXiv 2312.13139; action chunks as in EDiRobotics/GR1-Training, Apache-2.0).

Tokens of one step, in order; the mask is strictly causal per token:
    language | state | static latents, summary | wrist latents, summary || action queries | image queries per camera
Queries see every context token up to their own step; nobody ever sees a query, not even itself:
              step 0    step 1
    step 0    tril      0         rows and columns: context tokens
    step 1    1         tril
    query 0   1         0         query rows (as many as there are queries)
    query 1   1         1

Shape legend: B windows, T frames, F context tokens of a frame without language, C context tokens of all frames,
Q queries, D width, K chunk, A action size, S state size, L latents, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from foreact.policies.gr1.config import GR1Config
from foreact.policies.gr1.decoder import PixelDecoder
from foreact.policies.gr1.losses import loss_counts, policy_losses
from foreact.policies.gr1.state import StateEncoding
from foreact.policies.gr1.tokens import gr1_tokens
from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.explain_tokens import TokenMap
from foreact.vla.frozen_vision import FrozenVision, freeze_tower
from foreact.vla.layers import Block, PerceiverResampler
from foreact.vla.lora import adapt_towers
from foreact.vla.policy import Plan
from foreact.vla.text import TextTower, build_text, text_from_files
from foreact.vla.trainable import Statistics, TrainablePolicy
from foreact.vla.vision import Features, PretrainedVision, VisionTower, build_vision, see, to_pixels


class GR1(TrainablePolicy):
    """The policy as a torch module; `foreact.vla.runtime.StreamingActor` lets it act."""

    name = "gr1"
    config_class = GR1Config

    def __init__(
        self,
        config: GR1Config,
        contract: Contract,
        statistics: Statistics,
        *,
        vision: VisionTower | None = None,
        text: TextTower | None = None,
    ):
        """Build with random weights.

        Args:
            config: Sizes and weights.
            contract: What it requires: cameras at the network's own picture sizes, state and action fields (both may
                be empty for a policy that only watches video).
            statistics: {"state": {"mean": (S,), "std": (S,)}} of the training data, in contract order.
            vision: Tower to use instead of the configured one (a checkpoint passes its own).
            text: The same for text.
        """
        super().__init__(config, contract, statistics)
        self.config = config
        self.cameras = tuple(camera.name for camera in contract.cameras)
        sizes = {(camera.height, camera.width) for camera in contract.cameras}
        if len(sizes) != 1:
            raise ConfigError(f"gr1 shares one vision tower: its cameras must have one size, found {sorted(sizes)}")
        D = config.width

        self.vision = vision or build_vision(
            config.vision, sizes.pop(), width=config.vision_width, depth=config.vision_layers,
            heads=config.vision_heads, folder=config.vision_folder,
        )  # fmt: skip
        self.text = text or build_text(
            config.text, width=config.text_width, depth=config.text_layers, heads=config.text_heads,
            folder=config.text_folder,
        )  # fmt: skip
        adapt_towers(config, {"vision": self.vision, "text": self.text})
        self.resampler = PerceiverResampler(
            self.vision.width, depth=config.resampler_depth, latents=config.resampler_latents,
            heads=config.resampler_heads, head_width=config.resampler_head_width,
        )  # fmt: skip

        self.embed_language = nn.Linear(self.text.width, D)
        self.embed_latents = nn.ModuleDict({name: nn.Linear(self.vision.width, D) for name in self.cameras})
        self.embed_summary = nn.ModuleDict({name: nn.Linear(self.vision.width, D) for name in self.cameras})
        self.embed_timestep_TD = nn.Parameter(torch.randn(config.history, D) * 0.02)
        self.embed_norm = nn.LayerNorm(D)
        if contract.state:
            state = statistics["state"]
            self.encode_state = StateEncoding(contract.state, state["mean"], state["std"])
            self.embed_state = nn.Linear(self.encode_state.size, D)
            self.no_state_D = nn.Parameter(torch.zeros(D))

        self.blocks = nn.ModuleList(
            Block(D, config.heads, activation="relu", dropout=config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(D)

        self.image_queries = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(config.image_queries, D) * 0.02) for name in self.cameras}
        )
        self.decoder = PixelDecoder(
            D, config.decoder_width, layers=config.decoder_layers, heads=config.decoder_heads,
            patch=config.decoder_patch, blend=config.decoder_blend,
        )  # fmt: skip
        for camera in contract.cameras:
            self.decoder.check(camera.height, camera.width)
        if contract.action:
            self.action_query_D = nn.Parameter(torch.randn(D) * 0.02)
            self.chunk_queries_KD = nn.Parameter(torch.randn(config.chunk, D) * 0.02)
            self.action_head = nn.Linear(D, contract.action_size)

        # Blocks keep PyTorch's initialisation: with GPT-2's normal(0, 0.02), attention in a network this narrow begins
        # uniform, and the decoder took twice as many steps to paint more than the mean picture (measured on the desk).
        nn.init.normal_(self.decoder.paint.weight, std=0.02)

    # --- frames: everything that depends on one control step alone, so that a runtime can cache it ---------------

    def encode_frames(
        self, images: Mapping[str, Tensor], state_NS: Tensor, state_mask_N: Tensor, features: Features = None
    ) -> Tensor:
        """Context tokens of N frames (N, F, D), before time and language.

        Args:
            images: Camera name -> (N, H, W, 3) uint8; not looked at where there are `features` of them.
            state_NS: (N, S) contract state; (N, 0) without.
            state_mask_N: (N,) bool, False where the state is unknown (video without a robot).
        """
        count = len(state_mask_N)
        tokens: list[Tensor] = []
        if self.contract.state:
            state_ND = self.embed_state(self.encode_state(state_NS))
            state_ND = torch.where(state_mask_N[:, None], state_ND.float(), self.no_state_D)
            tokens.append(state_ND[:, None])
        patches, summary = see(self.vision, self.cameras, images, features)
        latents = self.resampler(patches)
        for row, name in enumerate(self.cameras):
            rows = slice(row * count, (row + 1) * count)
            tokens += [self.embed_latents[name](latents[rows]), self.embed_summary[name](summary[rows])[:, None]]
        return torch.cat([token.float() for token in tokens], dim=1)

    def frozen_vision(self) -> FrozenVision:
        return freeze_tower(self.vision)

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Language tokens (B, D); each different sentence is encoded once."""
        unique = sorted(set(sentences))
        vectors_UD = self.embed_language(self.text(unique)).float()
        rows = torch.tensor([unique.index(sentence) for sentence in sentences], device=vectors_UD.device)
        return vectors_UD[rows]

    # --- trunk -----------------------------------------------------------------------------------------------------

    def trunk(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, queries_QD: Tensor, step_BQ: Tensor
    ) -> Tensor:
        """Outputs of the queries (B, Q, D).

        Args:
            frames_BTFD: From `encode_frames`.
            language_BD: From `encode_text`.
            mask_BT: True for frames that exist; those come first.
            queries_QD: Learned query tokens.
            step_BQ: (B, Q) int: the history frame at which each query asks.
        """
        B, T, F, _ = frames_BTFD.shape
        language = repeat(language_BD, "b d -> b t 1 d", t=T)
        context = torch.cat([language, frames_BTFD], dim=2) + self.embed_timestep_TD[:T, None]
        C = T * (F + 1)
        x = torch.cat([rearrange(context, "b t f d -> b (t f) d"), queries_QD.expand(B, -1, -1)], dim=1)
        x = self.embed_norm(x)

        step_C = torch.arange(T, device=x.device).repeat_interleave(F + 1)
        exists_BC = mask_BT[:, step_C]
        causal_CC = torch.ones(C, C, dtype=torch.bool, device=x.device).tril()
        asks_BQC = step_C <= step_BQ[..., None]
        mask = torch.cat([causal_CC.expand(B, -1, -1), asks_BQC], dim=1) & exists_BC[:, None]

        for block in self.blocks[:-1]:
            x = block(x, mask[:, None], n_keys=C)
        return self.norm(self.blocks[-1](x, mask[:, None, C:], n_keys=C, first=C))

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(
        self,
        frames_BTFD: Tensor,
        language_BD: Tensor,
        mask_BT: Tensor,
        *,
        last_only: bool,
        image_step_BI: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Raw action outputs and image query outputs.

        Args:
            frames_BTFD: From `encode_frames`.
            language_BD: From `encode_text`.
            mask_BT: True for frames that exist.
            last_only: Ask for actions at the last existing frame only, else at all T frames.
            image_step_BI: (B, I) history frames whose future is asked for; None for no pictures.

        Returns:
            (B, T or 1, K, A) raw actions (the gripper is a logit; empty without an action contract), and per camera
            (B, I, queries, D).
        """
        B, T = mask_BT.shape
        K, A = self.config.chunk, self.contract.action_size
        device = mask_BT.device
        queries: list[Tensor] = []
        steps: list[Tensor] = []
        asked = torch.arange(T, device=device).expand(B, T)
        if last_only:
            asked = mask_BT.sum(dim=1, keepdim=True) - 1
        n_asked = asked.shape[1] if A else 0
        if A:
            queries.append((self.action_query_D + self.chunk_queries_KD).repeat(n_asked, 1))
            steps.append(asked.repeat_interleave(K, dim=1))
        if image_step_BI is not None:
            for name in self.cameras:
                queries.append(self.image_queries[name].repeat(image_step_BI.shape[1], 1))
                steps.append(image_step_BI.repeat_interleave(self.config.image_queries, dim=1))
        if not queries:
            return frames_BTFD.new_zeros(B, 0, K, 0), {}
        x_BQD = self.trunk(frames_BTFD, language_BD, mask_BT, torch.cat(queries), torch.cat(steps, dim=1))

        n_action = n_asked * K
        actions = frames_BTFD.new_zeros(B, 0, K, 0)
        if A:
            actions = rearrange(self.action_head(x_BQD[:, :n_action]), "b (t k) a -> b t k a", k=K).float()
        pictures: dict[str, Tensor] = {}
        if image_step_BI is not None:
            parts = x_BQD[:, n_action:].chunk(len(self.cameras), dim=1)
            for name, part in zip(self.cameras, parts, strict=True):
                pictures[name] = rearrange(part, "b (i q) d -> b i q d", q=self.config.image_queries)
        return actions, pictures

    @torch.no_grad()
    def plan_from(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> Plan:
        """A plan from encoded frames and text; arm actions are clipped to the contract's range, the gripper is +-1."""
        last_B1 = mask_BT.sum(dim=1, keepdim=True) - 1
        actions, pictures = self.answer(
            frames_BTFD, language_BD, mask_BT, last_only=True, image_step_BI=None if current is None else last_B1
        )
        chunk_BKA = actions[:, 0] if self.contract.action else actions.new_zeros(len(mask_BT), self.config.chunk, 0)
        foresight = None
        if current is not None:
            foresight = {}
            for name in self.cameras:
                painted = self.decoder(pictures[name][:, 0], to_pixels(current[name]))
                frames = (painted.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
                foresight[name] = rearrange(frames, "b c h w -> b h w c").cpu().numpy()
        return Plan(
            actions=self.to_commands(chunk_BKA).cpu().numpy(),
            foresight=foresight,
            foresight_steps=0 if current is None else self.config.foresight_steps,
        )

    def describe_tokens(self) -> TokenMap:
        """What its tokens are and where it attends, for `foreact explain`."""
        return gr1_tokens(self)

    # --- training ----------------------------------------------------------------------------------------------------

    def loss(self, batch: WindowBatch, counts: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Losses and metrics of one batch; "total" is what to minimise. See `losses.policy_losses` for the parts."""
        return policy_losses(self, batch, counts)

    def loss_counts(self, batch: WindowBatch) -> dict[str, float]:
        """What the means of `loss` are taken over; see `losses.loss_counts`."""
        return loss_counts(self, batch)

    # --- the folder it lives in --------------------------------------------------------------------------------------

    def tower_files(self) -> dict[str, bytes | Callable[[Path], None]]:
        """Tokenizer and configs of pretrained towers, so that the checkpoint runs offline."""
        return {
            **{f"text/{name}": content for name, content in self.text.files().items()},
            **{f"vision/{name}": content for name, content in self.vision.files().items()},
        }

    def normaliser(self) -> dict[str, Tensor]:
        """Mean and spread of the state."""
        return {name: value for name, value in self.state_dict().items() if name.startswith("encode_state.")}

    @classmethod
    def from_parts(cls, config: Mapping, contract: Contract, statistics: Statistics, folder: Path) -> GR1:
        sizes = GR1Config.from_dict(config)
        vision = None if sizes.vision == "small" else PretrainedVision.from_files(folder / "vision")
        text = text_from_files(sizes.text, folder / "text", width=sizes.text_width)
        return cls(sizes, contract, statistics, vision=vision, text=text)
