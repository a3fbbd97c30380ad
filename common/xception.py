"""Xception, the network: 299 x 299 RGB in, class logits out, 22,855,952 parameters for 1000 classes.

Usage:    from common.xception import Xception
          network = Xception(num_classes=1000).eval()
          network.load_state_dict(torch.load("xception.pth", weights_only=True))
          logits = network(images)   # float32 (N, 3, 299, 299) in [-1, 1] -> float32 (N, 1000)

Architecture: F. Chollet, "Xception: Deep Learning with Depthwise Separable
Convolutions", arXiv 1610.02357, figure 5. Layer names, and so the 276 entries of
the state dict, are those of tstandley/Xception-PyTorch at commit 7b9718b, so that
its published checkpoint xception-c0a72b38.pth.tar loads with strict=True.
"""
import torch
from torch import nn


class SeparableConv2d(nn.Module):
    """3x3 convolution per channel, then 1x1 across channels, no activation in between (section 2 of the paper)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """Residual block: one separable convolution per step of `channels`; `stride` 2 halves height and width.

    `channels` lists the counts from input to output: [728, 728, 728, 728] is the
    paper's middle block. The shortcut is a 1x1 convolution where size or count change,
    otherwise the identity.
    """

    def __init__(self, channels: list, stride: int = 1, leading_relu: bool = True):
        super().__init__()
        self.skip = None
        if stride != 1 or channels[0] != channels[-1]:
            self.skip = nn.Conv2d(channels[0], channels[-1], 1, stride=stride, bias=False)
            self.skipbn = nn.BatchNorm2d(channels[-1])
        layers = []
        for before, after in zip(channels, channels[1:]):
            layers += [nn.ReLU(), SeparableConv2d(before, after), nn.BatchNorm2d(after)]
        if not leading_relu:
            del layers[0]
        if stride != 1:
            layers.append(nn.MaxPool2d(3, stride, padding=1))
        self.rep = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.skip is None else self.skipbn(self.skip(x))
        return self.rep(x) + shortcut


class Xception(nn.Module):
    """The network. float32 (N, 3, 299, 299), RGB in [-1, 1] -> float32 (N, num_classes) logits.

    Attributes are made in the order of the published state dict; the order is part of
    the contract (test/xception_state_dict.tsv).
    """

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, bias=False)  # 299 -> 149
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)  # 149 -> 147
        self.bn2 = nn.BatchNorm2d(64)
        self.block1 = Block([64, 128, 128], stride=2, leading_relu=False)  # 147 -> 74
        self.block2 = Block([128, 256, 256], stride=2)  # 74 -> 37
        self.block3 = Block([256, 728, 728], stride=2)  # 37 -> 19
        for number in range(4, 12):  # the middle flow: eight identical blocks at 19 x 19
            setattr(self, f"block{number}", Block([728, 728, 728, 728]))
        self.block12 = Block([728, 728, 1024], stride=2)  # 19 -> 10
        self.conv3 = SeparableConv2d(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = SeparableConv2d(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)
        self.fc = nn.Linear(2048, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the fc layer's input: float32 (N, 3, 299, 299) -> (N, 2048)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        for number in range(1, 13):
            x = getattr(self, f"block{number}")(x)
        x = torch.relu(self.bn3(self.conv3(x)))
        x = torch.relu(self.bn4(self.conv4(x)))
        return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))
