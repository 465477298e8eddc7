"""A scorer from transformers: CLIP (Radford et al. 2021) or SigLIP (Zhai et al. 2023), in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Clip:
    """Embeds images and texts into one space, in float32."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.models.auto.image_processing_auto import AutoImageProcessor  # without torchvision, too
        from transformers.utils import logging

        logging.disable_progress_bar()  # that of loading
        self.device = device
        self.model: Any = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self.model.eval().to(device)
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def images(self, images: Sequence[np.ndarray]) -> Tensor:
        """(N, D) of unit length, of images (H, W, 3) uint8."""
        given = self.processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        return _units(self.model.get_image_features(**given.to(self.device)))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) of unit length; what is longer than the model reads is cut off."""
        most = self.model.config.text_config.max_position_embeddings
        given = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=most, return_tensors="pt")
        return _units(self.model.get_text_features(**given.to(self.device)))


def _units(features: Any) -> Tensor:
    return F.normalize(features.pooler_output.float(), dim=1).cpu()
