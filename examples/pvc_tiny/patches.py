# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The first stages of training: the encoder alone, then what the text model gets, names what covers each patch.

Questions and answers alone teach an encoder and a compressor from scratch to see, but slowly. PVC itself starts from a
trained ViT.
"""

from collections.abc import Callable

import numpy as np
import torch
from data import make_sample
from drawing import COLOURS, NAMES, labelled
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from modeling_pvc import PVCModel, PVCVisionConfig, PVCVisionModel
from modeling_pvc.modeling_pvc import merge_patches


MIN_COVERED = 0.08  # share of a patch's pixels; with less it counts as empty


def patch_labels(labels: Image.Image, config: PVCVisionConfig) -> torch.Tensor:
    """A picture's map of labels -> the most frequent label of each patch, 0 where hardly anything is: int[patches]."""
    grid, patch = config.grid_size, config.patch_size
    pixels = np.asarray(labels.resize((config.image_size, config.image_size), Image.Resampling.NEAREST))
    patches = pixels.reshape(grid, patch, grid, patch).transpose(0, 2, 1, 3).reshape(grid * grid, -1)
    found = []
    for values in patches:
        counts = np.bincount(values[values > 0], minlength=1)
        found.append(int(counts.argmax()) if counts.sum() >= MIN_COVERED * len(values) else 0)
    return torch.tensor(found)


class PatchDataset(Dataset):
    """Training pictures, drawn by `weights`, with their patches' labels."""

    def __init__(self, length: int, config: PVCVisionConfig, seed: int, weights: dict[Callable, int]):
        self.length, self.config, self.seed, self.weights = length, config, seed, weights

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = make_sample("image", "train", self.seed, index, labelled=True, weights=self.weights)
        frame = sample.media.resize((self.config.image_size, self.config.image_size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)
        return {"pixel_values": pixels, "labels": patch_labels(sample.labels, self.config)}


class PatchNamer(nn.Module):
    """The encoder with a linear layer for the name and one for the colour of what covers a patch."""

    def __init__(self, encoder: PVCVisionModel):
        super().__init__()
        self.encoder = encoder
        self.name, self.colour = naming_layers(encoder.config.hidden_size)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8[N, 3, H, W], int[N, patches] of `drawing.label` or 0 -> the loss, and the names' scores."""
        one_step = torch.ones(len(pixel_values), dtype=torch.long)
        patches = self.encoder(pixel_values=pixel_values, image_steps=one_step).last_hidden_state[:, 1:]
        scores = self.name(patches)
        return {"loss": naming_loss(scores, self.colour(patches), labels), "logits": scores}


class TokenNamer(nn.Module):
    """The same from what the text model gets: a token of one step names all patches that are merged into it."""

    def __init__(self, model: PVCModel):
        super().__init__()
        self.model = model
        self.merge, self.grid = model.config.merge_size, model.config.vision_config.grid_size
        self.name, self.colour = naming_layers(model.config.text_config.hidden_size, self.merge**2)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `PatchNamer`'s; the scores are those of the patches of one token after the other."""
        one_step = torch.ones(len(pixel_values), dtype=torch.long)
        tokens = self.model.get_image_features(pixel_values, image_steps=one_step).pooler_output
        scores, colours = (layer(tokens).unflatten(-1, (self.merge**2, -1)) for layer in (self.name, self.colour))
        merged = merge_patches(labels.view(-1, self.grid, self.grid, 1), self.merge).flatten(1, 2)
        return {"loss": naming_loss(scores, colours, merged), "logits": scores}


def naming_layers(width: int, patches: int = 1) -> tuple[nn.Linear, nn.Linear]:
    """Layers that score names and colours of so many patches; 0 is an empty one's."""
    return nn.Linear(width, patches * (1 + len(NAMES))), nn.Linear(width, patches * (1 + len(COLOURS)))


def naming_loss(scores: torch.Tensor, colour_scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of names and of colours, [..., classes] each, against int[...] of `drawing.label` or 0."""
    colours, names = (torch.where(labels > 0, 1 + place, 0) for place in labelled(labels))
    pairs = ((scores, names), (colour_scores, colours))
    return sum(cross_entropy(given.flatten(0, -2).float(), true.flatten()) for given, true in pairs)
