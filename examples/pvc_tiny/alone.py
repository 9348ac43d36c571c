# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Conversations of which each question is answered as if it had been asked alone.

In an ordinary one answers can be read from earlier turns, and the question has to be found among others: a text model
that starts from nothing learns sooner without.
"""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from modeling_pvc import PVCDataCollator


class AloneCollator:
    """Rows about one picture each -> `collate`'s batch with a mask bool[B, 1, L, L], and positions, for which each
    question sees the picture and itself.

    The beginning of a later turn, which stands before the picture in the first one, is not seen: all turns get the
    logits of a conversation that has this turn alone.
    """

    def __init__(self, collate: PVCDataCollator, tokenizer: PreTrainedTokenizerBase):
        self.collate, self.image = collate, tokenizer.image_token_id
        self.after_picture, self.turn_begins = (
            len(tokenizer(text).input_ids) for text in ("</img>\n", "\n<|im_start|>user\n")
        )

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.collate(rows)
        seen = self._seen(batch["input_ids"], batch["labels"])
        return {**batch, "attention_mask": seen[:, None], "position_ids": seen.sum(-1) - 1}

    def _seen(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """int[B, L], twice -> bool[B, L, L]: which tokens, itself among them, each token sees."""
        answers = labels != -100
        over = torch.zeros_like(answers)
        over[:, 1:] = answers[:, :-1] & ~answers[:, 1:]  # the first token after an answer
        turn, place = over.cumsum(1), torch.arange(ids.shape[1])
        began = torch.where(over, place, 0).cummax(1).values
        media_end = torch.where(ids == self.image, place, 0).amax(1, keepdim=True) + self.after_picture
        of_media = place <= media_end
        shown = (turn == 0) | (place >= began + self.turn_begins)
        related = (turn[:, :, None] == turn[:, None]) | of_media[:, None]
        return (related & shown[:, None]).tril() | torch.eye(ids.shape[1], dtype=torch.bool)
