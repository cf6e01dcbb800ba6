#!/usr/bin/env python3
"""Writes what diffusers' UNet2DModel answers, which tests/diffusers.rs compares ours with: unet2d.safetensors, and the folder
unet2d/, a pipeline as `save_pretrained` leaves it.

    pip install torch diffusers safetensors && python tests/golden/unet2d.py

The networks are drawn at random. Their weights are those of `numbers`, which Rust computes too; the configuration of each is in
the file's metadata, as JSON. For two images each: `N.x`, `N.t`, `N.labels` if it is conditioned on classes, and `N.output`. The pipeline
has weights of its own: `pipeline.x`, `pipeline.t`, `pipeline.output`, and `pipeline.images` after five steps of DDIM from x.

    python tests/golden/unet2d.py FOLDER

loads a folder that `diffusion export --diffusers FOLDER` wrote, and samples from it.
"""
import json
import random
import shutil
import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file

from unets import numbers, set_weights

HERE = Path(__file__).parent
CASES = 12


def drawn(rng):
    """A configuration: few channels, everything else as it comes."""
    levels, groups = rng.randint(1, 3), rng.choice([1, 2, 4])
    heads = rng.choice([None, 4, 2])
    widths = [4 * groups * rng.randint(1, 2) for _ in range(levels)]
    shift = rng.choice(["default", "scale_shift"])
    colours = rng.choice([1, 3])
    return dict(
        sample_size=8,
        in_channels=colours,
        out_channels=colours,
        center_input_sample=rng.random() < 0.5,
        freq_shift=rng.choice([0, 1]),
        flip_sin_to_cos=rng.random() < 0.5,
        down_block_types=[rng.choice(["DownBlock2D", "AttnDownBlock2D"]) for _ in widths],
        mid_block_type=rng.choice(["UNetMidBlock2D", "UNetMidBlock2D", None]),
        up_block_types=[rng.choice(["UpBlock2D", "AttnUpBlock2D"]) for _ in widths],
        block_out_channels=widths,
        layers_per_block=rng.randint(1, 3),
        mid_block_scale_factor=rng.choice([1, 2**0.5]),
        downsample_padding=rng.choice([0, 1]),
        act_fn=rng.choice(["silu", "gelu", "relu"]),
        attention_head_dim=heads,
        norm_num_groups=groups,
        attn_norm_num_groups=rng.choice([None, groups]),
        norm_eps=rng.choice([1e-5, 1e-6]),
        resnet_time_scale_shift=shift,
        add_attention=rng.random() < 0.7,
        num_class_embeds=rng.choice([None, 5]),
    )


def random_networks():
    rng, tensors, configs = random.Random(1), {}, {}
    for case in range(CASES):
        config = drawn(rng)
        net = UNet2DModel(**config).eval()
        set_weights(net)
        x, t = numbers(1000, (2, config["in_channels"], 8, 8)), torch.tensor([3, 700])
        labels = torch.tensor([4, 1]) if config["num_class_embeds"] else None
        with torch.no_grad():
            tensors[f"{case}.output"] = net(x, t, labels).sample
        tensors |= {f"{case}.x": x, f"{case}.t": t} | ({} if labels is None else {f"{case}.labels": labels})
        configs[f"config {case}"] = json.dumps(config)
    return tensors, configs


def pipeline():
    torch.manual_seed(1)
    net = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
    ).eval()
    scheduler = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    folder = HERE / "unet2d"
    shutil.rmtree(folder, ignore_errors=True)
    DDPMPipeline(unet=net, scheduler=scheduler).save_pretrained(folder)
    x, t = numbers(1000, (2, 1, 8, 8)), torch.tensor([3, 70])
    steps = DDIMScheduler.from_config(
        scheduler.config, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading", steps_offset=0
    )
    steps.set_timesteps(5)
    image = x
    with torch.no_grad():
        output = net(x, t).sample
        for at in steps.timesteps:
            image = steps.step(net(image, at).sample, at, image).prev_sample
    return {f"pipeline.{name}": value for name, value in dict(x=x, t=t, output=output, images=image).items()}


def check(folder):
    pipe = DDPMPipeline.from_pretrained(folder)
    net, size = pipe.unet.eval(), pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(2, net.config.in_channels, height, width)
    labels = torch.zeros(2, dtype=torch.long) if net.config.num_class_embeds else None
    pipe.scheduler.set_timesteps(10)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            x = pipe.scheduler.step(net(x, t, labels).sample, t, x).prev_sample
    print(f"{type(net).__name__}, {sum(p.numel() for p in net.parameters())} parameters, {pipe.scheduler.config.prediction_type}; "
          f"samples of {tuple(x.shape)} from {x.min():.2f} to {x.max():.2f}")


def main():
    if len(sys.argv) > 1:
        return check(sys.argv[1])
    tensors, configs = random_networks()
    tensors |= pipeline()
    save_file({name: value.contiguous() for name, value in tensors.items()}, HERE / "unet2d.safetensors", metadata=configs)


if __name__ == "__main__":
    main()
