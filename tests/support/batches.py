"""Rows of token ids with images and videos, for small models of `conftest`."""

import torch


IMAGE, VIDEO = 259, 260


def grid(*lengths):
    """`video_grid_thw` of videos with those numbers of frames."""
    return torch.tensor([[length, 1, 1] for length in lengths])


def pixels(count, seed=0):
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def prompt(*parts):
    """A row of token ids: `("image", n)` and `("video", n)` are n placeholders, an integer is itself."""
    ids = []
    for part in parts:
        ids += [part] if isinstance(part, int) else [IMAGE if part[0] == "image" else VIDEO] * part[1]
    return ids


def pad(rows, side):
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = [256] * (width - len(row))
        ids.append(fill + row if side == "left" else row + fill)
        mask.append([0] * len(fill) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(fill))
    return torch.tensor(ids), torch.tensor(mask)


# Text, one image of 2 tiles, one video of 3 frames, and both: one token per step, four steps per tile.
ROWS = [
    prompt(1, 2, 3),
    prompt(1, ("image", 8), 5),
    prompt(7, ("video", 3), 8, 9),
    prompt(("video", 2), 4, ("image", 4), 6),
]
TILES = [None, pixels(2, 1), None, pixels(1, 2)]
FRAMES = [None, None, pixels(3, 3), pixels(2, 4)]


def batch_of(indices, side="left"):
    ids, mask = pad([ROWS[i] for i in indices], side)
    # positions as `generate` makes them: rotary angles are float32, and only equal positions give equal ones
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    if tiles := [TILES[i] for i in indices if TILES[i] is not None]:
        batch["pixel_values"] = torch.cat(tiles)
    if frames := [FRAMES[i] for i in indices if FRAMES[i] is not None]:
        batch["pixel_values_videos"] = torch.cat(frames)
        batch["video_grid_thw"] = grid(*map(len, frames))
    return batch
