"""The improved policy: GR-1's shape, with parts that can each be replaced by one setting (see foreact_config.py).

A GPT-style trunk reads language, state and pictures of the last frames; learned queries ask it for future frames and
for the next actions (Wu et al., arXiv 2312.13139; action chunks as in EDiRobotics/GR1-Training, Apache-2.0).

Tokens, in order. G context tokens per step; queries behind them, asked at steps of their own:
    step 0: language | state | camera 1: tokens, summary | camera 2: tokens, summary || step 1: ... || image | action
Who looks at whom (within_step=causal looks at earlier tokens of its step only, bidirectional at all of them):
              step 0    step 1    image 0/1   action 0/1
    step 0    own step  -         -           -
    step 1    all       own step  -           -
    image 1   all       all       -           -
    action 1  all       all       image 1, with action_sees=foresight, else -      -

Shape legend: B windows, T frames, F tokens kept of a frame, G context tokens of a frame, C = T * G, Q queries,
D width, K chunk, A action size, S state size, P patches, L tokens of a picture, H x W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from foreact.policies.gr1.decoder import PixelDecoder
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.policies.gr1.foreact_losses import foreact_counts, foreact_losses
from foreact.policies.gr1.heads import build_head
from foreact.policies.gr1.relative import ToolFrame
from foreact.policies.gr1.state import StateEncoding
from foreact.policies.gr1.tokens import foreact_tokens
from foreact.policies.gr1.visual_tokens import build_visual_tokens
from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.explain_tokens import TokenMap
from foreact.vla.frozen_vision import FrozenVision, freeze_tower
from foreact.vla.layers import Block
from foreact.vla.lora import adapt_towers
from foreact.vla.policy import Plan
from foreact.vla.text import TextTower, build_text, text_from_files
from foreact.vla.trainable import Statistics, TrainablePolicy
from foreact.vla.vision import Features, PretrainedVision, VisionTower, build_vision, see, to_pixels


@dataclass(frozen=True)
class Answers:
    """What the queries found out."""

    actions_BTKD: Tensor
    """Outputs of the action queries, at the steps that were asked."""
    images: dict[str, Tensor]
    """Camera -> (B, I, queries, D), at the steps whose future was asked for; empty if none was."""


class ForeAct(TrainablePolicy):
    """The policy as a torch module; `foreact.vla.runtime.StreamingActor` lets it act."""

    name = "foreact"
    config_class = ForeActConfig
    not_pose_E: Tensor
    """Zero where the encoded state holds the tool's position or angles in the room, else one."""

    def __init__(
        self,
        config: ForeActConfig,
        contract: Contract,
        statistics: Statistics,
        *,
        vision: VisionTower | None = None,
        text: TextTower | None = None,
    ):
        """Build with random weights.

        Args:
            config: Parts, sizes and weights.
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
            raise ConfigError(f"foreact shares one vision tower: its cameras must have one size, found {sorted(sizes)}")
        size, D, S = sizes.pop(), config.width, contract.state_size

        self.vision = vision or build_vision(
            config.vision, size, width=config.vision_width, depth=config.vision_layers,
            heads=config.vision_heads, folder=config.vision_folder,
        )  # fmt: skip
        self.text = text or build_text(
            config.text, width=config.text_width, depth=config.text_layers, heads=config.text_heads,
            folder=config.text_folder,
        )  # fmt: skip
        adapt_towers(config, {"vision": self.vision, "text": self.text})
        self.embed_language = nn.Linear(self.text.width, D)
        self.embed_patches = nn.ModuleDict({name: nn.Linear(self.vision.width, D) for name in self.cameras})
        self.embed_summary = nn.ModuleDict({name: nn.Linear(self.vision.width, D) for name in self.cameras})
        self.visual_tokens = build_visual_tokens(
            config.visual_tokens, self.vision.grid, D, config.visual_count, depth=config.resampler_depth,
            heads=config.resampler_heads, head_width=config.resampler_head_width, told=config.resampler_told,
        )  # fmt: skip
        self.tool: ToolFrame | None = None
        if (config.action_frame == "tool" and contract.action) or (config.state_frame == "first" and contract.state):
            self.tool = ToolFrame(contract)
        if contract.state:
            if S + 1 > D:
                raise ConfigError(f"policy.width={D} must be larger than the {S} numbers of the state")
            state = statistics["state"]
            self.encode_state = StateEncoding(contract.state, state["mean"], state["std"])
            extra = 0
            if config.state_frame == "first":
                assert self.tool is not None
                extra = 9
                keep_E = torch.ones(self.encode_state.size)
                keep_E[self.encode_state.places(self.tool.state_positions)] = 0.0
                self.register_buffer("not_pose_E", keep_E, persistent=False)
            self.embed_state = nn.Linear(self.encode_state.size + extra, D)
            self.no_state_D = nn.Parameter(torch.zeros(D))
        self.embed_timestep_TD = nn.Parameter(torch.randn(config.history, D) * 0.02)
        self.embed_norm = nn.LayerNorm(D)

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
        self.decoder.check(*size)
        if config.foresight_target == "latent":
            grid = (size[0] // config.decoder_patch, size[1] // config.decoder_patch)
            if grid != self.vision.grid:
                raise ConfigError(
                    f"policy.foresight_target=latent needs one patch of the decoder per patch of the vision tower: "
                    f"policy.decoder_patch={config.decoder_patch} gives a grid of {grid}, the tower's is "
                    f"{self.vision.grid}"
                )
            self.latent = nn.Linear(config.decoder_width, self.vision.width)
            self.target_vision = copy.deepcopy(self.vision).requires_grad_(False)
        if contract.action:
            self.action_query_D = nn.Parameter(torch.randn(D) * 0.02)
            self.chunk_queries_KD = nn.Parameter(torch.randn(config.chunk, D) * 0.02)
            self.action_head = build_head(
                config.action_head, D, contract.action_size, self.gripper_index, beta=config.arm_beta,
                chunk=config.chunk, heads=config.heads, steps=config.flow_steps,
            )  # fmt: skip

        # Blocks keep PyTorch's initialisation: with GPT-2's normal(0, 0.02), attention in a network this narrow begins
        # uniform, and the decoder took twice as many steps to paint more than the mean picture (measured on the desk).
        nn.init.normal_(self.decoder.paint.weight, std=0.02)

    # --- frames: everything that depends on one control step alone, so that a runtime can cache it -------------------

    def encode_frames(
        self, images: Mapping[str, Tensor], state_NS: Tensor, state_mask_N: Tensor, features: Features = None
    ) -> Tensor:
        """What is kept of N frames (N, F, D): the state as it is, then patches and summary of each camera.

        Args:
            images: Camera name -> (N, H, W, 3) uint8; not looked at where there are `features` of them.
            state_NS: (N, S) contract state; (N, 0) without.
            state_mask_N: (N,) bool, False where the state is unknown (video without a robot).
        """
        count, D = len(state_mask_N), self.config.width
        patches, summary = see(self.vision, self.cameras, images, features)
        tokens: list[Tensor] = []
        if self.contract.state:
            # Raw numbers and a flag that they are known; they are embedded beside the window's other states.
            known = torch.cat([state_NS, state_mask_N[:, None].to(state_NS.dtype)], dim=1)
            tokens.append(nn.functional.pad(known, (0, D - known.shape[1]))[:, None])
        for row, name in enumerate(self.cameras):
            rows = slice(row * count, (row + 1) * count)
            tokens += [self.embed_patches[name](patches[rows]), self.embed_summary[name](summary[rows])[:, None]]
        return torch.cat([token.float() for token in tokens], dim=1)

    def frozen_vision(self) -> FrozenVision:
        return freeze_tower(self.vision)

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Language tokens (B, D); each different sentence is encoded once."""
        unique = sorted(set(sentences))
        vectors_UD = self.embed_language(self.text(unique)).float()
        rows = torch.tensor([unique.index(sentence) for sentence in sentences], device=vectors_UD.device)
        return vectors_UD[rows]

    # --- context: what a step looks like to the trunk --------------------------------------------------------------

    def context(self, frames_BTFD: Tensor, language_BD: Tensor) -> Tensor:
        """(B, T, G, D): language, state, and per camera the reduced tokens and the summary."""
        B, T, F, D = frames_BTFD.shape
        language = repeat(language_BD, "b d -> b t 1 d", t=T)
        tokens, start = [language], 0
        if self.contract.state:
            tokens.append(self._state_token(*self._raw_state(frames_BTFD)))
            start = 1
        hint = rearrange(language.expand(B, T, 1, D), "b t 1 d -> (b t) d")
        # Cut once: in the backward pass a slice each would write as many tensors of the whole size.
        P = (F - start) // len(self.cameras) - 1
        _, *pictures = frames_BTFD.split([start, *[P, 1] * len(self.cameras)], dim=2)
        for patches, summary in zip(pictures[::2], pictures[1::2], strict=True):
            few = self.visual_tokens(rearrange(patches, "b t p d -> (b t) p d"), hint)
            tokens += [rearrange(few, "(b t) l d -> b t l d", t=T).float(), summary]
        return torch.cat(tokens, dim=2)

    def _raw_state(self, frames_BTFD: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, S) contract state and (B, T) whether it is known."""
        S = self.contract.state_size
        return frames_BTFD[:, :, 0, :S], frames_BTFD[:, :, 0, S] > 0.5

    def _state_token(self, state_BTS: Tensor, known_BT: Tensor) -> Tensor:
        numbers = self.encode_state(state_BTS)
        if self.config.state_frame == "first":
            assert self.tool is not None
            # Where in the room the tool is says nothing any more; only fingers and joints keep their own numbers.
            pose = self.tool.pose_from_first(state_BTS)
            pose = torch.cat([pose[..., :3] / _REACH_M, pose[..., 3:]], dim=-1)
            numbers = torch.cat([numbers * self.not_pose_E, pose], dim=-1)
        return torch.where(known_BT[..., None], self.embed_state(numbers).float(), self.no_state_D)[:, :, None]

    # --- trunk -----------------------------------------------------------------------------------------------------

    def answer(
        self,
        frames_BTFD: Tensor,
        language_BD: Tensor,
        mask_BT: Tensor,
        *,
        last_only: bool,
        image_step_BI: Tensor | None,
    ) -> Answers:
        """Ask the trunk.

        Args:
            frames_BTFD: From `encode_frames`.
            language_BD: From `encode_text`.
            mask_BT: True for frames that exist; those come first.
            last_only: Ask for actions at the last existing frame only, else at all T frames.
            image_step_BI: (B, I) history frames whose future is asked for; None for no pictures.
        """
        B, T = mask_BT.shape
        every_BT = torch.arange(T, device=mask_BT.device).expand(B, T)
        asked_BT = mask_BT.sum(dim=1, keepdim=True) - 1 if last_only else every_BT
        sees = self.config.action_sees == "foresight" and bool(self.contract.action)
        # Actions that see the foresight need it at each of their steps; whoever wants pictures takes some of those.
        image_BJ = asked_BT if sees else image_step_BI
        queries: list[Tensor] = []
        steps: list[Tensor] = []
        if image_BJ is not None:
            for name in self.cameras:
                queries.append(self.image_queries[name].repeat(image_BJ.shape[1], 1))
                steps.append(image_BJ.repeat_interleave(self.config.image_queries, dim=1))
        n_image = sum(len(q) for q in queries)
        if self.contract.action:
            queries.append((self.action_query_D + self.chunk_queries_KD).repeat(asked_BT.shape[1], 1))
            steps.append(asked_BT.repeat_interleave(self.config.chunk, dim=1))
        empty = frames_BTFD.new_zeros(B, 0, self.config.chunk, self.config.width)
        if not queries:
            return Answers(empty, {})
        x_BQD = self.trunk(
            self.context(frames_BTFD, language_BD), mask_BT, torch.cat(queries), torch.cat(steps, dim=1),
            visible=n_image if sees else 0,
        )  # fmt: skip

        actions = rearrange(x_BQD[:, n_image:], "b (t k) d -> b t k d", k=self.config.chunk)
        images: dict[str, Tensor] = {}
        if image_step_BI is not None:
            for name, part in zip(self.cameras, x_BQD[:, :n_image].chunk(len(self.cameras), dim=1), strict=True):
                answers = rearrange(part, "b (j q) d -> b j q d", q=self.config.image_queries)
                if sees and not last_only:
                    answers = answers[torch.arange(B, device=answers.device)[:, None], image_step_BI]
                images[name] = answers
        return Answers(actions if self.contract.action else empty, images)

    def trunk(
        self, context_BTGD: Tensor, mask_BT: Tensor, queries_QD: Tensor, step_BQ: Tensor, *, visible: int
    ) -> Tensor:
        """Outputs of the queries (B, Q, D).

        Args:
            context_BTGD: From `context`.
            mask_BT: True for frames that exist.
            queries_QD: Learned query tokens.
            step_BQ: The history frame at which each query asks.
            visible: So many of the first queries are looked at by the others of their own step.
        """
        B, T, G, _ = context_BTGD.shape
        C, Q = T * G, len(queries_QD)
        context = rearrange(context_BTGD + self.embed_timestep_TD[:T, None], "b t g d -> b (t g) d")
        x = self.embed_norm(torch.cat([context, queries_QD.expand(B, -1, -1)], dim=1))

        step_C = torch.arange(T, device=x.device).repeat_interleave(G)
        exists_BC = mask_BT[:, step_C]
        if self.config.within_step == "causal":
            looks_CC = torch.ones(C, C, dtype=torch.bool, device=x.device).tril()
        else:
            looks_CC = step_C <= step_C[:, None]
        asks_BQC = step_C <= step_BQ[..., None]
        mask = torch.cat([looks_CC.expand(B, -1, -1), asks_BQC], dim=1) & exists_BC[:, None]
        if visible:
            same_BQV = step_BQ[:, None, :visible] == step_BQ[..., None]
            same_BQV = same_BQV & (torch.arange(Q, device=x.device) >= visible)[:, None]
            nobody = torch.zeros(B, C, visible, dtype=torch.bool, device=x.device)
            mask = torch.cat([mask, torch.cat([nobody, same_BQV], dim=1)], dim=2)

        keys = C + visible
        for block in self.blocks[:-1]:
            x = block(x, mask[:, None], n_keys=keys)
        return self.norm(self.blocks[-1](x, mask[:, None, C:], n_keys=keys, first=C))

    # --- acting ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def plan_from(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> Plan:
        """A plan from encoded frames and text; arm actions are clipped to the contract's range, the gripper is +-1."""
        last_B1 = mask_BT.sum(dim=1, keepdim=True) - 1
        answers = self.answer(
            frames_BTFD, language_BD, mask_BT, last_only=True, image_step_BI=None if current is None else last_B1
        )
        actions_BKA = frames_BTFD.new_zeros(len(mask_BT), self.config.chunk, 0)
        if self.contract.action:
            actions_BKA = self.action_head(answers.actions_BTKD[:, 0])
            if self.config.action_frame == "tool":
                assert self.tool is not None
                state_BS = self._raw_state(frames_BTFD)[0][torch.arange(len(mask_BT)), last_B1[:, 0]]
                actions_BKA = self.tool.to_base(actions_BKA, self.tool.rotation(state_BS)[:, None])
        foresight = None
        if current is not None:
            foresight = {}
            for name in self.cameras:
                painted = self.decoder(answers.images[name][:, 0], to_pixels(current[name]))
                frames = (painted.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
                foresight[name] = rearrange(frames, "b c h w -> b h w c").cpu().numpy()
        return Plan(
            actions=self.to_commands(actions_BKA).cpu().numpy(),
            foresight=foresight,
            foresight_steps=0 if current is None else self.config.foresight_steps,
        )

    def describe_tokens(self) -> TokenMap:
        """What its tokens are and where it attends, for `foreact explain`."""
        return foreact_tokens(self)

    # --- training ----------------------------------------------------------------------------------------------------

    def loss(self, batch: WindowBatch, counts: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Losses and metrics of one batch; "total" is what to minimise. See `foreact_losses` for the parts."""
        return foreact_losses(self, batch, counts)

    def loss_counts(self, batch: WindowBatch) -> dict[str, float]:
        """What the means of `loss` are taken over; see `foreact_losses.foreact_counts`."""
        return foreact_counts(self, batch)

    @torch.no_grad()
    def after_step(self) -> None:
        """The tower whose tokens are predicted follows the one that learns."""
        if self.config.foresight_target != "latent":
            return
        for target, live in zip(self.target_vision.parameters(), self.vision.parameters(), strict=True):
            target.lerp_(live.to(target.dtype), 1.0 - self.config.target_decay)

    def after_init_from(self, taken: Collection[str]) -> None:
        """A checkpoint that foresaw pixels has no such tower: it begins as the one that learns."""
        if self.config.foresight_target == "latent" and not any(name.startswith("target_vision.") for name in taken):
            self.target_vision.load_state_dict(self.vision.state_dict())

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
    def from_parts(cls, config: Mapping, contract: Contract, statistics: Statistics, folder: Path) -> ForeAct:
        sizes = ForeActConfig.from_dict(config)
        vision = None if sizes.vision == "small" else PretrainedVision.from_files(folder / "vision")
        text = text_from_files(sizes.text, folder / "text", width=sizes.text_width)
        return cls(sizes, contract, statistics, vision=vision, text=text)


_REACH_M = 0.1
"""Scale of positions relative to the window's first frame."""
