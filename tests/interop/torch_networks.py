"""torchvision's ResNets and Inception v3, written anew in PyTorch, in eval mode.

After He et al. 2016 and Szegedy et al. 2016, with the names, paddings and pools that
torchvision documents; nothing of lossbench is in them.
"""

import torch
from torch import nn
from torch.nn import functional

STAGES = {
  18: (2, 2, 2, 2),
  34: (3, 4, 6, 3),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
}


class Block(nn.Module):
  """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1 of which the 3 x 3 strides."""

  def __init__(self, inputs, channels, stride, bottleneck, inner=1):
    super().__init__()
    outputs = channels * (4 if bottleneck else 1)
    sizes, strides = (3, 3), (stride, 1)
    widths = [inputs, channels, outputs]
    if bottleneck:
      sizes, strides = (1, 3, 1), (1, stride, 1)
      widths = [inputs, inner * channels, inner * channels, outputs]
    self.count = len(sizes)
    for i, (size, step) in enumerate(zip(sizes, strides, strict=True)):
      conv = nn.Conv2d(
        widths[i], widths[i + 1], size, step, size // 2, bias=False
      )
      setattr(self, f'conv{i + 1}', conv)
      setattr(self, f'bn{i + 1}', nn.BatchNorm2d(widths[i + 1]))
    self.downsample = None
    if stride != 1 or inputs != outputs:
      self.downsample = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False),
        nn.BatchNorm2d(outputs),
      )

  def forward(self, x):
    y = x
    for i in range(1, self.count + 1):
      y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
      y = functional.relu(y) if i < self.count else y
    return functional.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
  """`inner` = 2 makes the bottlenecks of wide_resnet50_2."""

  def __init__(self, depth, num_classes=1000, inner=1):
    super().__init__()
    self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(64)
    inputs = 64
    for stage, count in enumerate(STAGES[depth]):
      channels, blocks = 64 * 2**stage, []
      for block in range(count):
        stride = 2 if stage and block == 0 else 1
        blocks.append(Block(inputs, channels, stride, depth >= 50, inner))
        inputs = channels * (4 if depth >= 50 else 1)
      setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
    self.fc = nn.Linear(inputs, num_classes)

  def forward(self, x):
    x = functional.relu(self.bn1(self.conv1(x)))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
      x = getattr(self, f'layer{stage}')(x)
    return self.fc(x.mean((2, 3)))


class Unit(nn.Module):
  """Convolution, batch normalisation, ReLU."""

  def __init__(self, inputs, outputs, size=(1, 1), stride=1, padding=None):
    super().__init__()
    same = size[0] // 2, size[1] // 2
    pads = same if padding is None else padding
    self.conv = nn.Conv2d(inputs, outputs, size, stride, pads, bias=False)
    self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

  def forward(self, x):
    return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
  """Branches side by side; each a list of (name, unit), or of pairs of those.

  A branch may begin with 'average', and 'max' is one by itself.
  """

  def __init__(self, branches):
    super().__init__()
    self.plan = []
    for branch in branches:
      self.plan.append([])
      for layer in branch:
        if isinstance(layer, str):
          self.plan[-1].append(layer)
          continue
        units = layer if isinstance(layer, list) else [layer]
        for name, unit in units:
          setattr(self, name, unit)
        self.plan[-1].append([name for name, _ in units])

  def forward(self, x):
    outputs = []
    for branch in self.plan:
      y = x
      for layer in branch:
        if layer == 'average':  # of which the padding counts
          y = functional.avg_pool2d(y, 3, 1, 1)
        elif layer == 'max':
          y = functional.max_pool2d(y, 3, 2)
        else:
          y = torch.cat([getattr(self, name)(y) for name in layer], 1)
      outputs.append(y)
    return torch.cat(outputs, 1)


def _mixed_5(inputs, pool):
  return Mixed(
    [
      [('branch1x1', Unit(inputs, 64))],
      [
        ('branch5x5_1', Unit(inputs, 48)),
        ('branch5x5_2', Unit(48, 64, (5, 5))),
      ],
      [
        ('branch3x3dbl_1', Unit(inputs, 64)),
        ('branch3x3dbl_2', Unit(64, 96, (3, 3))),
        ('branch3x3dbl_3', Unit(96, 96, (3, 3))),
      ],
      ['average', ('branch_pool', Unit(inputs, pool))],
    ]
  )


def _mixed_6(c):
  row, column = (1, 7), (7, 1)
  return Mixed(
    [
      [('branch1x1', Unit(768, 192))],
      [
        ('branch7x7_1', Unit(768, c)),
        ('branch7x7_2', Unit(c, c, row)),
        ('branch7x7_3', Unit(c, 192, column)),
      ],
      [
        ('branch7x7dbl_1', Unit(768, c)),
        ('branch7x7dbl_2', Unit(c, c, column)),
        ('branch7x7dbl_3', Unit(c, c, row)),
        ('branch7x7dbl_4', Unit(c, c, column)),
        ('branch7x7dbl_5', Unit(c, 192, row)),
      ],
      ['average', ('branch_pool', Unit(768, 192))],
    ]
  )


def _mixed_7(inputs):
  def split(name):
    return [
      (f'{name}a', Unit(384, 384, (1, 3))),
      (f'{name}b', Unit(384, 384, (3, 1))),
    ]

  return Mixed(
    [
      [('branch1x1', Unit(inputs, 320))],
      [('branch3x3_1', Unit(inputs, 384)), split('branch3x3_2')],
      [
        ('branch3x3dbl_1', Unit(inputs, 448)),
        ('branch3x3dbl_2', Unit(448, 384, (3, 3))),
        split('branch3x3dbl_3'),
      ],
      ['average', ('branch_pool', Unit(inputs, 192))],
    ]
  )


class Auxiliary(nn.Module):
  """The head that training has beside; never called here."""

  def __init__(self, num_classes):
    super().__init__()
    self.conv0 = Unit(768, 128)
    self.conv1 = Unit(128, 768, (5, 5), padding=0)
    self.fc = nn.Linear(768, num_classes)


class InceptionV3(nn.Module):
  """With an auxiliary head if asked."""

  def __init__(self, num_classes=1000, auxiliary=True):
    super().__init__()
    size = (3, 3)
    self.Conv2d_1a_3x3 = Unit(3, 32, size, 2, 0)
    self.Conv2d_2a_3x3 = Unit(32, 32, size, 1, 0)
    self.Conv2d_2b_3x3 = Unit(32, 64, size)
    self.Conv2d_3b_1x1 = Unit(64, 80)
    self.Conv2d_4a_3x3 = Unit(80, 192, size, 1, 0)
    self.Mixed_5b = _mixed_5(192, 32)
    self.Mixed_5c = _mixed_5(256, 64)
    self.Mixed_5d = _mixed_5(288, 64)
    self.Mixed_6a = Mixed(
      [
        [('branch3x3', Unit(288, 384, size, 2, 0))],
        [
          ('branch3x3dbl_1', Unit(288, 64)),
          ('branch3x3dbl_2', Unit(64, 96, size)),
          ('branch3x3dbl_3', Unit(96, 96, size, 2, 0)),
        ],
        ['max'],
      ]
    )
    for letter, channels in zip('bcde', (128, 160, 160, 192), strict=True):
      setattr(self, f'Mixed_6{letter}', _mixed_6(channels))
    if auxiliary:
      self.AuxLogits = Auxiliary(num_classes)
    self.Mixed_7a = Mixed(
      [
        [
          ('branch3x3_1', Unit(768, 192)),
          ('branch3x3_2', Unit(192, 320, size, 2, 0)),
        ],
        [
          ('branch7x7x3_1', Unit(768, 192)),
          ('branch7x7x3_2', Unit(192, 192, (1, 7))),
          ('branch7x7x3_3', Unit(192, 192, (7, 1))),
          ('branch7x7x3_4', Unit(192, 192, size, 2, 0)),
        ],
        ['max'],
      ]
    )
    self.Mixed_7b = _mixed_7(1280)
    self.Mixed_7c = _mixed_7(2048)
    self.fc = nn.Linear(2048, num_classes)

  def forward(self, x):
    x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
    x = functional.max_pool2d(x, 3, 2)
    x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
    x = functional.max_pool2d(x, 3, 2)
    for name in [
      '5b',
      '5c',
      '5d',
      '6a',
      '6b',
      '6c',
      '6d',
      '6e',
      '7a',
      '7b',
      '7c',
    ]:
      x = getattr(self, f'Mixed_{name}')(x)
    return self.fc(x.mean((2, 3)))


def create(architecture, **fields):
  """A network by torchvision's name."""
  if architecture == 'inception_v3':
    return InceptionV3(**fields)
  return ResNet(int(architecture.removeprefix('resnet')), **fields)


def randomise(network, seed=0):
  """Draws all that training would change; returns the network in eval mode.

  Kernels are He's, and of a residual's last scale a fifth, so that activations
  stay near 1; else float32 would say little.
  """
  generator = torch.Generator().manual_seed(seed)
  for name, x in [*network.named_parameters(), *network.named_buffers()]:
    if x.ndim == 4:
      fan_in = x[0].numel()
      x.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    elif x.ndim == 2:
      x.data.normal_(0, x.shape[1] ** -0.5, generator=generator)
    elif name.endswith(('running_mean', 'bias')):
      x.data.normal_(0, 0.1, generator=generator)
    elif name.endswith('num_batches_tracked'):
      x.fill_(7)
    else:
      x.data.uniform_(0.5, 1.5, generator=generator)
  for block in network.modules():
    if isinstance(block, Block):
      getattr(block, f'bn{block.count}').weight.data /= 5
  return network.eval()


def logits(network, images):
  """Of images [B, H, W, C], NumPy, as torch computes them: [B, K]."""
  with torch.no_grad():
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return network(x).numpy()
