"""The crate's networks in PyTorch, for golden values (unets.py) and for speeds (tests/speed/in_torch.py).

Each takes noisy images (B, C, H, W), time steps (B,) and a condition or None, and has the crate's parameter names.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


def sinusoidal(t, width):
    """(B,) time steps -> (B, width): all sines, then all cosines."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    def __init__(self, width, hidden, activation=F.silu):
        super().__init__()
        self.width, self.activation = width, activation
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, hidden)

    def forward(self, t):
        return self.linear2(self.activation(self.linear1(sinusoidal(t, self.width))))


class ResBlock(nn.Module):
    def __init__(self, inputs, outputs, time):
        super().__init__()
        self.norm1 = nn.GroupNorm(min(8, inputs), inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, e):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(e))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SimpleUNet(nn.Module):
    channels = 1

    def __init__(self, base):
        super().__init__()
        time = 4 * base
        self.time_embedding = TimeEmbedding(base, time)
        self.conv_in = nn.Conv2d(1, base, 3, padding=1)
        self.down1 = ResBlock(base, base, time)
        self.downsample1 = nn.Conv2d(base, base, 3, stride=2, padding=1)
        self.down2 = ResBlock(base, 2 * base, time)
        self.downsample2 = nn.Conv2d(2 * base, 2 * base, 3, stride=2, padding=1)
        self.mid = ResBlock(2 * base, 4 * base, time)
        self.upsample2 = nn.Conv2d(4 * base, 2 * base, 3, padding=1)
        self.up2 = ResBlock(4 * base, 2 * base, time)
        self.upsample1 = nn.Conv2d(2 * base, base, 3, padding=1)
        self.up1 = ResBlock(2 * base, base, time)
        self.norm_out = nn.GroupNorm(8, base)
        self.conv_out = nn.Conv2d(base, 1, 3, padding=1)

    def forward(self, xt, t, tokens=None):
        e = self.time_embedding(t)
        text, attend = None, lambda name, x, _: x
        if tokens is not None:
            *text, start = self.text.encode(tokens)
            e, attend = e + start, self.text.attend
        s1 = self.down1(self.conv_in(xt), e)
        s2 = attend("down2", self.down2(self.downsample1(s1), e), text)
        x = attend("mid", self.mid(self.downsample2(s2), e), text)
        x = self.upsample2(F.interpolate(x, scale_factor=2, mode="nearest"))
        x = attend("up2", self.up2(torch.cat([x, s2], dim=1), e), text)
        x = self.upsample1(F.interpolate(x, scale_factor=2, mode="nearest"))
        x = self.up1(torch.cat([x, s1], dim=1), e)
        return self.conv_out(F.silu(self.norm_out(x)))


def attention(q, k, v, mask, heads):
    """(B, N, C), (B, L, C) twice, and a mask (B, L) that is false for padding -> (B, N, C)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :]).transpose(1, 2).flatten(2)


class TextBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp1, self.mlp2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask):
        x = x + self.out(attention(*self.qkv(self.norm1(x)).chunk(3, dim=2), mask, self.heads))
        return x + self.mlp2(F.gelu(self.mlp1(self.norm2(x))))


class CrossAttention(nn.Module):
    def __init__(self, channels, width, groups, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.q, self.kv, self.out = nn.Linear(channels, channels), nn.Linear(width, 2 * channels), nn.Linear(channels, channels)

    def forward(self, x, tokens, mask):
        q = self.q(self.norm(x).flatten(2).transpose(1, 2))
        y = self.out(attention(q, *self.kv(tokens).chunk(2, dim=2), mask, self.heads))
        return x + y.transpose(1, 2).reshape(x.shape)


class TextEncoder(nn.Module):
    def __init__(self, width, heads, tokens, vocabulary):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary + 1, width), nn.Embedding(tokens + 1, width)
        self.block1, self.block2 = TextBlock(width, heads), TextBlock(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens):
        """Token numbers (B, L), -1 for padding -> features (B, 1 + L, width) and a mask, the start token first."""
        start = torch.full((len(tokens), 1), self.tokens.num_embeddings - 1)
        tokens = torch.cat([start, tokens], dim=1)
        x = self.tokens(tokens.clamp(min=0)) + self.positions.weight[: tokens.shape[1]]
        mask = tokens >= 0
        return self.norm(self.block2(self.block1(x, mask), mask)), mask


class Text(nn.Module):
    def __init__(self, base, heads, tokens, vocabulary):
        super().__init__()
        self.encoder = TextEncoder(base, heads, tokens, vocabulary)
        self.to_time = nn.Linear(base, 4 * base)
        self.down2, self.mid, self.up2 = (CrossAttention(n * base, base, 8, heads) for n in (2, 4, 2))

    def encode(self, tokens):
        features, mask = self.encoder(tokens)
        return features, mask, self.to_time(features[:, 0])

    def attend(self, name, x, text):
        return getattr(self, name)(x, *text)


class TextUNet(SimpleUNet):
    """SimpleUNet with text."""

    def __init__(self, base, tokens, vocabulary):
        super().__init__(base)
        self.text = Text(base, 4, tokens, vocabulary)


class ResidualConvBlock(nn.Module):
    """Without the shortcut of random weights, whose mean is 0."""

    def __init__(self, inputs, outputs, residual=False):
        super().__init__()
        self.residual, self.same = residual, inputs == outputs
        self.conv1 = self.half(inputs, outputs)
        self.conv2 = self.half(outputs, outputs)

    @staticmethod
    def half(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.GELU())

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        if not self.residual:
            return y
        return (x + y if self.same else y) / 1.414


class UnetDown(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.model = nn.Sequential(ResidualConvBlock(inputs, outputs), ResidualConvBlock(outputs, outputs), nn.MaxPool2d(2))

    def forward(self, x):
        return self.model(x)


class UnetUp(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.model = nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, 2),
                                   ResidualConvBlock(outputs, outputs), ResidualConvBlock(outputs, outputs))

    def forward(self, x, skip):
        return self.model(torch.cat([x, skip], dim=1))


class EmbedFC(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))

    def forward(self, x):
        return self.model(x)[:, :, None, None]


class ContextUnet(nn.Module):
    def __init__(self, n_feat=64, channels=3, n_cfeat=5, height=16, steps=500):
        super().__init__()
        n, self.channels, self.n_cfeat, self.steps = n_feat, channels, n_cfeat, steps
        self.init_conv = ResidualConvBlock(channels, n, residual=True)
        self.down1 = UnetDown(n, n)
        self.down2 = UnetDown(n, 2 * n)
        self.to_vec = nn.Sequential(nn.AvgPool2d(4), nn.GELU())
        self.timeembed1 = EmbedFC(1, 2 * n)
        self.timeembed2 = EmbedFC(1, n)
        self.contextembed1 = EmbedFC(n_cfeat, 2 * n)
        self.contextembed2 = EmbedFC(n_cfeat, n)
        side = height // 4
        self.up0 = nn.Sequential(nn.ConvTranspose2d(2 * n, 2 * n, side, side), nn.GroupNorm(8, 2 * n), nn.ReLU())
        self.up1 = UnetUp(4 * n, n)
        self.up2 = UnetUp(2 * n, n)
        self.out = nn.Sequential(nn.Conv2d(2 * n, n, 3, padding=1), nn.GroupNorm(8, n), nn.ReLU(),
                                 nn.Conv2d(n, channels, 3, padding=1))

    def forward(self, xt, t, context=None):
        time = t.float()[:, None] / self.steps
        if context is None:
            context = xt.new_zeros(len(xt), self.n_cfeat)
        x = self.init_conv(xt)
        down1 = self.down1(x)
        down2 = self.down2(down1)
        up1 = self.up0(self.to_vec(down2))
        up2 = self.up1(self.contextembed1(context) * up1 + self.timeembed1(time), down2)
        up3 = self.up2(self.contextembed2(context) * up2 + self.timeembed2(time), down1)
        return self.out(torch.cat([up3, x], dim=1))


class Embedded(nn.Module):
    """Time and label in one vector; the last label stands for any."""

    def embed(self, t, labels):
        e = self.time_embedding(t)
        if not hasattr(self, "label_embedding"):
            return e
        if labels is None:
            labels = torch.full_like(t, self.label_embedding.num_embeddings - 1)
        told = self.label_embedding(labels)
        return e + (self.label_mlp(told) if hasattr(self, "label_mlp") else told)


class StandardizedConv2d(nn.Conv2d):
    def forward(self, x):
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = self.weight.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - mean) / (variance + 1e-5).sqrt(), self.bias, self.stride, self.padding)


class SpaceToDepth(nn.Conv2d):
    """Each 2x2 pixels as four times the channels, then a 1x1 convolution."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 2)

    def forward(self, x):
        return F.conv2d(F.pixel_unshuffle(x, 2), self.weight.flatten(1)[:, :, None, None], self.bias)


class ResnetBlock(nn.Module):
    def __init__(self, inputs, outputs, time, groups, conv=nn.Conv2d):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.time = nn.Linear(time, 2 * outputs)
        self.conv2 = conv(outputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, e):
        scale, shift = self.time(F.silu(e))[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm1(self.conv1(x)) * (1 + scale) + shift)
        return self.skip(x) + F.silu(self.norm2(self.conv2(h)))


class SelfAttention(nn.Module):
    def __init__(self, channels, groups, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = self.qkv(self.norm(x).flatten(2).transpose(1, 2))
        q, k, v = (y.reshape(b, h * w, self.heads, c // self.heads).transpose(1, 2) for y in tokens.chunk(3, dim=2))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(y).transpose(1, 2).reshape(x.shape)


class ConditionalUNet(Embedded):
    def __init__(self, base=64, channels=1, groups=8, heads=4, classes=10):
        super().__init__()
        self.channels, time = channels, 2 * base
        widths = [base, base, 2 * base, 4 * base, 8 * base]
        block = lambda inputs, outputs: ResnetBlock(inputs, outputs, time, groups, StandardizedConv2d)  # noqa: E731
        attention = lambda width: SelfAttention(width, groups, heads)  # noqa: E731
        self.time_embedding = TimeEmbedding(time, time, F.gelu)
        self.label_embedding = nn.Embedding(classes + 1, time)
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)
        self.down = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
            level = nn.Module()
            level.block1, level.block2 = block(inputs, outputs), block(outputs, outputs)
            level.attention = attention(outputs) if i % 2 == 0 else nn.Identity()
            level.downsample = SpaceToDepth(outputs, outputs)
            self.down.append(level)
        self.mid = nn.Module()
        self.mid.block1, self.mid.block2 = block(8 * base, 8 * base), block(8 * base, 8 * base)
        self.mid.attention = attention(8 * base)
        self.up = nn.ModuleList()
        for inputs, width in zip([8 * base, *widths[:1:-1]], widths[:0:-1]):
            level = nn.Module()
            level.upsample = nn.ConvTranspose2d(inputs, width, 4, 2, 1)
            level.block1, level.block2 = block(2 * width, width), block(width, width)
            level.attention = attention(width)
            self.up.append(level)
        self.norm_out = nn.GroupNorm(groups, base)
        self.conv_out = nn.Conv2d(base, channels, 3, padding=1)

    def forward(self, xt, t, labels=None):
        e, x, skips = self.embed(t, labels), self.conv_in(xt), []
        for level in self.down:
            x = level.attention(level.block2(level.block1(x, e), e))
            skips.append(x)
            x = level.downsample(x)
        x = self.mid.block2(self.mid.attention(self.mid.block1(x, e)), e)
        for level in self.up:
            x = torch.cat([level.upsample(x), skips.pop()], dim=1)
            x = level.attention(level.block2(level.block1(x, e), e))
        return self.conv_out(F.silu(self.norm_out(x)))


class DoubleConv(nn.Module):
    def __init__(self, inputs, outputs, groups):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs)

    def forward(self, x):
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class UNet(Embedded):
    def __init__(self, base=64, channels=3, groups=8, heads=0, classes=0):
        super().__init__()
        self.channels, time, b = channels, 4 * base, base
        attention = lambda width: SelfAttention(width, groups, heads) if heads else nn.Identity()  # noqa: E731
        self.time_embedding = TimeEmbedding(base, time)
        if classes:
            self.label_embedding = nn.Embedding(classes + 1, time)
            self.label_mlp = nn.Sequential(nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time))
        self.enc1 = DoubleConv(channels, b, groups)
        self.enc2 = DoubleConv(b, 2 * b, groups)
        self.enc3 = DoubleConv(2 * b, 4 * b, groups)
        self.bottleneck = DoubleConv(4 * b, 8 * b, groups)
        self.time_mlp = nn.Linear(time, 8 * b)
        self.attention = attention(8 * b)
        self.dec3 = DoubleConv(8 * b + 4 * b, 4 * b, groups)
        self.attention3 = attention(4 * b)
        self.dec2 = DoubleConv(4 * b + 2 * b, 2 * b, groups)
        self.dec1 = DoubleConv(2 * b + b, b, groups)
        self.conv_out = nn.Conv2d(b, channels, 1)

    def forward(self, xt, t, labels=None):
        up = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)  # noqa: E731
        e = self.embed(t, labels)
        s1 = self.enc1(xt)
        s2 = self.enc2(F.max_pool2d(s1, 2))
        s3 = self.enc3(F.max_pool2d(s2, 2))
        x = self.bottleneck(F.max_pool2d(s3, 2))
        x = self.attention(x * self.time_mlp(F.silu(e))[:, :, None, None])
        x = self.attention3(self.dec3(torch.cat([up(x), s3], dim=1)))
        x = self.dec2(torch.cat([up(x), s2], dim=1))
        x = self.dec1(torch.cat([up(x), s1], dim=1))
        return self.conv_out(x)


class AttentionUNet(Embedded):
    def __init__(self, base=64, channels=3, groups=8, heads=4, classes=0):
        super().__init__()
        self.channels, time = channels, 4 * base
        widths = [base, base, 2 * base, 2 * base, 4 * base]
        block = lambda inputs, outputs: ResnetBlock(inputs, outputs, time, groups)  # noqa: E731
        self.time_embedding = TimeEmbedding(base, time)
        if classes:
            self.label_embedding = nn.Embedding(classes + 1, time)
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)
        self.down = nn.ModuleList()
        for inputs, outputs in zip(widths, widths[1:]):
            level = nn.Module()
            level.block = block(inputs, outputs)
            level.downsample = nn.Conv2d(outputs, outputs, 3, stride=2, padding=1)
            self.down.append(level)
        self.mid = nn.Module()
        self.mid.block1, self.mid.block2 = block(4 * base, 4 * base), block(4 * base, 4 * base)
        self.mid.attention = SelfAttention(4 * base, groups, heads)
        self.up = nn.ModuleList()
        for inputs, outputs in zip(widths[:0:-1], widths[-2::-1]):
            level = nn.Module()
            level.upsample = nn.Conv2d(inputs, inputs, 3, padding=1)
            level.block = block(2 * inputs, outputs)
            self.up.append(level)
        self.norm_out = nn.GroupNorm(groups, base)
        self.conv_out = nn.Conv2d(base, channels, 3, padding=1)

    def forward(self, xt, t, labels=None):
        e, x, skips = self.embed(t, labels), self.conv_in(xt), []
        for level in self.down:
            x = level.block(x, e)
            skips.append(x)
            x = level.downsample(x)
        x = self.mid.block2(self.mid.attention(self.mid.block1(x, e)), e)
        for level in self.up:
            x = level.upsample(F.interpolate(x, scale_factor=2, mode="nearest"))
            x = level.block(torch.cat([x, skips.pop()], dim=1), e)
        return self.conv_out(F.silu(self.norm_out(x)))
