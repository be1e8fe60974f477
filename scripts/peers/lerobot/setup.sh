#!/usr/bin/env bash
# Makes two environments with LeRobot's own classes: one for datasets v3.0, one for v2.1 (which LeRobot 0.4 dropped).
#   PYTHON  a Python 3.12, which LeRobot 0.6 needs (default python3.12)
#   PEERS   folder of the environments (default outputs/peers)
# LeRobot 0.6's upper bounds on torch and torchvision are not followed: its dataset classes run with later ones. 0.3
# decodes with torchvision's VideoReader, which later versions dropped.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python3.12}
peers=${PEERS:-outputs/peers}
common=('numpy>=2,<2.3' 'pandas<3' 'pillow<13' 'av>=15,<16' 'packaging<26' einops jsonlines requests termcolor tqdm deepdiff)

"$python" -m venv "$peers/lerobot_v30"
"$peers/lerobot_v30/bin/pip" install -q torch "${common[@]}" 'datasets>=4.8,<5' draccus 'huggingface_hub>=1.6' \
    safetensors 'gymnasium>=1.1.1'
"$peers/lerobot_v30/bin/pip" install -q --no-deps torchvision lerobot==0.6.1

"$python" -m venv "$peers/lerobot_v21"
"$peers/lerobot_v21/bin/pip" install -q torch==2.7.1 torchvision==0.22.1 "${common[@]}" 'datasets>=2.19,<=3.6.0' 'pyarrow<22' draccus==0.10.0 \
    'huggingface_hub<1' imageio
"$peers/lerobot_v21/bin/pip" install -q --no-deps lerobot==0.3.3
